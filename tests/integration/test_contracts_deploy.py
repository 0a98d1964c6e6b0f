"""Laws of `saga contracts deploy`: a development chain is ready afterwards, real money is safe."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from eth_utils.crypto import keccak

from adapters.contracts import (
    DEFAULT_ADMIN_ROLE,
    DEPLOYER_ROLE,
    HAS_ROLE,
    REGISTRAR_ROLE,
)
from adapters.embedded import DEV_ACCOUNT, DEV_MNEMONIC_KEY, EmbeddedAnvil, free_port
from adapters.strategies import PROXY, PROXY_COST_WEI, PROXY_DEPLOYER
from saga.cli.contracts import deploy
from saga.cli.main import cli
from saga.config import Settings
from saga.errors import ChainUnavailableError, UsageError
from saga.model import Step
from tests.support.chain import STRANGER_KEY, Node, chain_side, new_saga

ROOT = Path(__file__).resolve().parents[2]
# https://github.com/Arachnid/deterministic-deployment-proxy: keccak256 of the code at PROXY
PROXY_CODE_HASH = "2fa86add0aed31f33a762c9d88e807c475bd51d0f52bd0955754b2608f7e4989"
ADDRESSES = ["MODEL_REGISTRY_ADDRESS", "TOKEN_MANAGER_ADDRESS"]

Saga = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def bare() -> Iterator[EmbeddedAnvil]:
    """A chain without the CREATE2 proxy, as most are but anvil's."""
    with EmbeddedAnvil("--disable-default-create2-deployer") as node:
        yield node


@pytest.fixture
def saga(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Saga:
    """`saga contracts deploy …` in this process: status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(url: str, *options: str, key: str = DEV_MNEMONIC_KEY) -> tuple[int, str, str]:
        monkeypatch.setenv("WEB3_PROVIDER_URL", url)
        monkeypatch.setenv("DEPLOYER_PRIVATE_KEY", key)
        with pytest.raises(SystemExit) as ended:
            cli(["contracts", "deploy", *options])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def proxy_code(node: Node) -> bytes:
    return bytes.fromhex(node.request("eth_getCode", PROXY, "latest")[2:])


def test_lines_are_an_environment(anvil: EmbeddedAnvil, tmp_path: Path) -> None:
    """What the command prints, added to the environment, is what `saga run` needs of addresses."""
    inherited = {k: v for k, v in os.environ.items() if k not in Settings.model_fields}
    given = {
        "WEB3_PROVIDER_URL": anvil.url,
        "DEPLOYER_PRIVATE_KEY": DEV_MNEMONIC_KEY,
        "PYTHONPATH": str(ROOT),
    }
    command = subprocess.run(
        [sys.executable, "-m", "saga", "contracts", "deploy"],
        env=inherited | given,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    printed = dict(line.split("=", 1) for line in command.stdout.splitlines())
    assert list(printed) == ADDRESSES
    settings = Settings.model_validate(given | printed | {"REDIS_URL": "redis://localhost"})
    assert [getattr(settings, name) for name in ADDRESSES] == list(printed.values())
    assert DEV_MNEMONIC_KEY[2:] not in command.stdout + command.stderr


def test_json(anvil: EmbeddedAnvil, saga: Saga) -> None:
    """With --json stdout is one object of the same names, and nothing else."""
    status, out, _ = saga(anvil.url, "--json")
    assert status == 0
    assert list(json.loads(out)) == ADDRESSES


def test_roles(anvil: EmbeddedAnvil) -> None:
    """The key may deploy, register and administer afterwards."""
    node = Node(anvil.url)
    for contract, role in [
        (node.registry, REGISTRAR_ROLE),
        (node.registry, DEFAULT_ADMIN_ROLE),
        (node.manager, DEPLOYER_ROLE),
        (node.manager, DEFAULT_ADMIN_ROLE),
    ]:
        assert node.read(contract, HAS_ROLE, bytes.fromhex(role[2:]), DEV_ACCOUNT)


@pytest.mark.parametrize("chain_id", [1, 137])
def test_real_money(saga: Saga, chain_id: int) -> None:
    """On the chains with real money nothing is sent without --i-know."""
    with EmbeddedAnvil("--chain-id", str(chain_id)) as anvil:
        status, out, err = saga(anvil.url)
        assert (status, out) == (1, "")
        assert err == (f"saga: chain id {chain_id} is real money; give --i-know to deploy there\n")
        status, out, _ = saga(anvil.url, "--i-know")
        assert (status, [line.split("=")[0] for line in out.splitlines()]) == (0, ADDRESSES)


async def test_proxy_is_installed(bare: EmbeddedAnvil) -> None:
    """Where the chain lacks the CREATE2 proxy, it is there afterwards, and `create2` works."""
    node = Node(bare.url)
    assert keccak(proxy_code(node)).hex() == PROXY_CODE_HASH
    async with chain_side(node, "create2") as side:
        deployed = await side.carry_out(new_saga("model_1"), Step.DEPLOY)
        await side.carry_out(deployed, Step.REGISTER)
    assert deployed.deployment is not None
    assert node.registered("model_1") == deployed.deployment.token


def test_proxy_is_paid_for_once(bare: EmbeddedAnvil) -> None:
    """The proxy's sender gets what it lacks, no more, and a second run sends it nothing."""
    node = Node(bare.url)
    node.request("anvil_setCode", PROXY, "0x")
    node.request("anvil_setNonce", PROXY, "0x0")
    node.request("anvil_setNonce", PROXY_DEPLOYER, "0x0")
    node.request("anvil_setBalance", PROXY_DEPLOYER, hex(PROXY_COST_WEI // 4))
    deploy(bare.url, DEV_MNEMONIC_KEY)
    assert keccak(proxy_code(node)).hex() == PROXY_CODE_HASH
    left = int(node.request("eth_getBalance", PROXY_DEPLOYER, "latest"), 16)
    assert left < PROXY_COST_WEI
    deploy(bare.url, DEV_MNEMONIC_KEY)
    assert int(node.request("eth_getBalance", PROXY_DEPLOYER, "latest"), 16) == left
    assert node.nonce(PROXY_DEPLOYER) == 1


def test_each_run_is_new(anvil: EmbeddedAnvil) -> None:
    """Two runs are two sets of contracts: the first one's tokens are not touched."""
    first, second = deploy(anvil.url, DEV_MNEMONIC_KEY), deploy(anvil.url, DEV_MNEMONIC_KEY)
    assert not set(first.values()) & set(second.values())


def test_no_node(saga: Saga) -> None:
    """Without a node the command says so, and shows neither the URL's path nor the key."""
    status, out, err = saga(f"http://127.0.0.1:{free_port()}/secret")
    assert (status, out) == (1, "")
    assert err.startswith("saga: WEB3_PROVIDER_URL: no node answers (")
    assert "secret" not in err


def test_no_node_for_callers() -> None:
    """Other commands get the error that means: no node answers."""
    with pytest.raises(ChainUnavailableError):
        deploy(f"http://127.0.0.1:{free_port()}", DEV_MNEMONIC_KEY)


def test_poor_key(anvil: EmbeddedAnvil) -> None:
    """A key without funds is refused with the chain's reason."""
    with pytest.raises(UsageError, match=r"the chain refused: .*[Ii]nsufficient funds"):
        deploy(anvil.url, "0x" + "11" * 32)


def test_malformed_settings(saga: Saga) -> None:
    """Each malformed setting is a line that names it, and none shows its value."""
    status, out, err = saga("ftp://secret", key="secret")
    assert (status, out) == (2, "")
    names = [line.split()[1] for line in err.splitlines()]
    assert names == ["WEB3_PROVIDER_URL", "DEPLOYER_PRIVATE_KEY"]
    assert "secret" not in err


def test_other_keys_may_deploy(anvil: EmbeddedAnvil) -> None:
    """Whoever deploys becomes the admin: no key is special."""
    contracts = deploy(anvil.url, STRANGER_KEY)
    assert list(contracts) == ADDRESSES
