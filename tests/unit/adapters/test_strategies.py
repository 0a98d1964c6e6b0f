"""Laws of the addresses: they follow from model, content and place, and never change."""

import pytest
from eth_abi.abi import decode as abi_decode
from eth_abi.abi import encode as abi_encode
from eth_account import Account
from eth_utils.crypto import keccak

from adapters.contracts import ZERO_ADDRESS, artifact
from adapters.strategies import (
    PROXY,
    PROXY_COST_WEI,
    PROXY_DEPLOYER,
    PROXY_TRANSACTION,
    Create2Strategy,
    ManagerStrategy,
    create2_address,
)
from saga.messages import ModelReadyToDeployMessage, token_name

REGISTRY = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
MANAGER = "0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512"
TOKEN = "0x9fE46736679d2D9a65F0992F2272dE9f3c7fa6e0"
DEAD = "0xdeadbeef" + "00" * 16
BEEF = "0x" + "00" * 16 + "deadbeef"
CAFE = "00" * 28 + "cafebabe"


def message(**changes: str) -> ModelReadyToDeployMessage:
    texts = {"model_id": "model_1", "token_symbol": "HKAI", "mlflow_run_id": "run_1"} | changes
    return ModelReadyToDeployMessage(
        model_id=texts["model_id"],
        token_symbol=texts["token_symbol"],
        mlflow_run_id=texts["mlflow_run_id"],
        metric_name="accuracy",
        baseline_value=0.8,
        current_value=0.9,
        model_name="model",
        model_version="1",
        improvement_percentage=12.5,
    )


def create2(
    registry: str = REGISTRY, chain_id: int = 31337, owner: str = MANAGER
) -> Create2Strategy:
    return Create2Strategy(registry=registry, manager=MANAGER, owner=owner, chain_id=chain_id)


# https://eips.ethereum.org/EIPS/eip-1014#examples
@pytest.mark.parametrize(
    ("deployer", "salt", "initcode", "address"),
    [
        (ZERO_ADDRESS, "00" * 32, "00", "0x4D1A2e2bB4F88F0250f26Ffff098B0b30B26BF38"),
        (DEAD, "00" * 32, "00", "0xB928f69Bb1D91Cd65274e3c79d8986362984fDA3"),
        (DEAD, "00" * 12 + "feed" + "00" * 18, "00", "0xD04116cDd17beBE565EB2422F2497E06cC1C9833"),
        (ZERO_ADDRESS, "00" * 32, "deadbeef", "0x70f2b2914A2a4b783FaEFb75f459A580616Fcb5e"),
        (BEEF, CAFE, "deadbeef", "0x60f3f640a8508fC6a86d45DF051962668E1e8AC7"),
        (BEEF, CAFE, "deadbeef" * 11, "0x1d8bfDC5D46DC4f61D6b6115972536eBE6A8854C"),
        (ZERO_ADDRESS, "00" * 32, "", "0xE33C0C7F7df4809055C3ebA6c09CFe4BaF1BD9e0"),
    ],
)
def test_eip_1014(deployer: str, salt: str, initcode: str, address: str) -> None:
    """Addresses are those of the standard's examples."""
    found = create2_address(bytes.fromhex(salt), keccak(bytes.fromhex(initcode)), deployer)
    assert found == address


def test_proxy_transaction() -> None:
    """The keyless transaction is the published one, and its sender is whom we pay."""
    raw = bytes.fromhex(PROXY_TRANSACTION[2:])
    published = "eddf9e61fb9d8f5111840daef55e5fde0041f5702856532cdbb5a02998033d26"
    assert keccak(raw).hex() == published
    assert Account.recover_transaction(PROXY_TRANSACTION) == PROXY_DEPLOYER
    assert PROXY_COST_WEI == 10**16
    # rlp([sender, nonce 0]): what a plain creation's address follows from
    creation = b"\xd6\x94" + bytes.fromhex(PROXY_DEPLOYER[2:]) + b"\x80"
    assert keccak(creation)[12:].hex() == PROXY[2:].lower()


def test_salt_is_for_ever() -> None:
    """The salt of a model never changes: tokens are found again by it."""
    domain = keccak(b"hokusai.contract-deploy-listener.token.v1")
    place = (31337).to_bytes(32, "big") + bytes.fromhex(REGISTRY[2:])
    assert create2().salt("model_1") == keccak(domain + place + b"model_1")
    assert (
        create2().salt("model_1").hex()
        == "2e76df3e5ff60f1f61efbf0b0bc7bf410d6b9c528a73ee3a1bcb45b863c837a6"
    )


def test_salts_are_apart() -> None:
    """Another model, registry or chain has another salt; the owner and the key play no part."""
    salts = [
        create2().salt("model_1"),
        create2().salt("model_2"),
        create2(registry=MANAGER).salt("model_1"),
        create2(chain_id=1).salt("model_1"),
    ]
    assert len(set(salts)) == len(salts)
    assert create2(owner=TOKEN).salt("model_1") == salts[0]


def test_salt_fields_do_not_run_together() -> None:
    """No model id can imitate another place's salt: what stands before it has a fixed length."""
    longer = create2().salt("model_11")
    assert longer != create2().salt("model_1")
    assert longer != create2(chain_id=313371).salt("model_1")


def test_create2_call() -> None:
    """The call is salt and creation code, to the proxy; the address follows from both."""
    plan = create2().plan(message())
    data = bytes.fromhex(plan.data[2:])
    creation = bytes.fromhex(artifact("HokusaiToken").bytecode[2:])
    assert plan.to == PROXY
    assert data[:32] == create2().salt("model_1")
    assert data[32:].startswith(creation)
    kinds = ["string", "string", "address", "address", "string", "string"]
    assert abi_decode(kinds, data[32 + len(creation) :]) == (
        token_name("model_1"), "HKAI", MANAGER.lower(), MANAGER.lower(), "model_1", "run_1",
    )  # fmt: skip
    assert plan.initcode_hash == "0x" + keccak(data[32:]).hex()
    assert plan.predicted == create2_address(data[:32], keccak(data[32:]))


@pytest.mark.parametrize(
    "change", [{"model_id": "model_2"}, {"token_symbol": "X"}, {"mlflow_run_id": "run_2"}]
)
def test_create2_address_follows_the_content(change: dict[str, str]) -> None:
    """What defines the token moves its address."""
    assert create2().plan(message(**change)).predicted != create2().plan(message()).predicted


def test_create2_reads_code() -> None:
    """Code at the predicted address is the token; 0x is none."""
    strategy = create2()
    plan = strategy.plan(message())
    assert strategy.questions(message()) == [("eth_getCode", [plan.predicted, "latest"])]
    assert strategy.read(message(), ["0x"]) == (None, plan)
    assert strategy.read(message(), ["0x60"]) == (plan.predicted, plan)


def word(address: str) -> str:
    return "0x" + abi_encode(["address"], [address]).hex()


def test_manager_reads_its_answers() -> None:
    """The manager says which token exists and which address a new one gets; zero is none."""
    strategy = ManagerStrategy(MANAGER)
    assert [method for method, _ in strategy.questions(message())] == ["eth_call", "eth_call"]
    existing, plan = strategy.read(message(), [word(ZERO_ADDRESS), word(TOKEN)])
    assert existing is None
    assert (plan.to, plan.predicted, plan.initcode_hash) == (MANAGER, TOKEN, "")
    existing, _ = strategy.read(message(), [word(REGISTRY), word(TOKEN)])
    assert existing == REGISTRY
