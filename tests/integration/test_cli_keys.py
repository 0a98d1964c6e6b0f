"""`saga keys show` and `saga keys check` as an operator meets them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adapters.embedded import DEV_ACCOUNT, DEV_MNEMONIC_KEY, EmbeddedValkey, free_port
from adapters.redis_lanes import RedisLanes
from saga.model import Step
from tests.support.chain import STRANGER, STRANGER_KEY, Node
from tests.support.commands import Ended, command, environment
from tests.support.lane import LaneSide, lane_side
from tests.support.proxy import open_proxy, rpc_error

THIRD = "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC"


@pytest.fixture(autouse=True)
def _undone(node: Node) -> Iterator[None]:
    with node.rolled_back():
        node.hold_blocks()
        yield


async def show(lane: LaneSide, valkey: EmbeddedValkey, **changes: str | None) -> Ended:
    return await command(environment(lane, valkey.url, **changes), "keys", "show", "--json")


def only_key(shown: Ended) -> dict[str, Any]:
    (key,) = shown.document["keys"]
    assert isinstance(key, dict)
    return key


# --- show


async def test_show_a_key(node: Node, valkey: EmbeddedValkey) -> None:
    """A key is shown with its kind, setting, pin, lanes, balance, nonces and roles; nothing else
    is asked of it."""
    async with lane_side(node, valkey.url) as lane:
        await lane.lane.keep("w1", lease_ms=1, hold="")
        await lane.intended("shown")
        elsewhere = RedisLanes(lane.corner.client, lane.corner.keys).lane(5, DEV_ACCOUNT)
        await elsewhere.keep("w1", lease_ms=1, hold="")
        await elsewhere.retire("drain", STRANGER)
        shown = await show(lane, valkey, DEPLOYER_ADDRESS=DEV_ACCOUNT)
        text = await command(environment(lane, valkey.url), "keys", "show")
    first = node.nonce()
    assert (shown.status, shown.err) == (0, "")
    assert shown.document["problems"] == []
    assert shown.document["chain_id"] == node.chain_id
    key = only_key(shown)
    balance = int(node.request("eth_getBalance", DEV_ACCOUNT, "latest"), 16)
    assert key.pop("balance_ether").startswith(f"{balance // 10**18}.")
    assert key == {
        "address": DEV_ACCOUNT,
        "kind": "private key",
        "setting": "DEPLOYER_PRIVATE_KEY",
        "pin": "ok",
        "lanes": [
            {
                "chain_id": 5,
                "next_nonce": None,
                "retired": f"draining:{STRANGER}",
                "abandoned": False,
            },
            {
                "chain_id": node.chain_id,
                "next_nonce": first + 1,
                "retired": None,
                "abandoned": False,
            },
        ],
        "nonce_latest": first,
        "nonce_pending": first,
        "roles": {"REGISTRAR_ROLE": True, "DEPLOYER_ROLE": True},
    }
    assert text.status == 0
    assert f"{DEV_ACCOUNT} private key, from DEPLOYER_PRIVATE_KEY, no pin" in text.out
    assert f"chain 5: next nonce none yet, draining to {STRANGER}" in text.out
    assert "DEPLOYER_ROLE yes" in text.out


async def test_show_a_key_without_roles(node: Node, valkey: EmbeddedValkey) -> None:
    """A role that is missing is shown as missing; with create2 one alone is needed."""
    async with lane_side(node, valkey.url) as lane:
        stranger = {"DEPLOYER_PRIVATE_KEY": STRANGER_KEY}
        key = only_key(await show(lane, valkey, **stranger))
        assert key["roles"] == {"REGISTRAR_ROLE": False, "DEPLOYER_ROLE": False}
        key = only_key(await show(lane, valkey, **stranger, DEPLOY_STRATEGY="create2"))
        assert key["roles"] == {"REGISTRAR_ROLE": False}


async def test_show_former_keys(node: Node, valkey: EmbeddedValkey) -> None:
    """What a former key of this chain has out is shown with its sagas; other chains' is not."""
    async with lane_side(node, valkey.url) as lane:
        await lane.lane.keep("w1", lease_ms=1, hold="")
        saga = await lane.intended("left")
        await lane.side.chain.send(saga, Step.DEPLOY)
        lanes = RedisLanes(lane.corner.client, lane.corner.keys)
        await lanes.lane(5, DEV_ACCOUNT).keep("w1", lease_ms=1, hold="")
        await lanes.lane(node.chain_id, THIRD).keep("w1", lease_ms=1, hold="")
        shown = await show(lane, valkey, DEPLOYER_PRIVATE_KEY=STRANGER_KEY)
        settings = environment(lane, valkey.url, DEPLOYER_PRIVATE_KEY=STRANGER_KEY)
        text = await command(settings, "keys", "show")
    first = node.nonce()
    assert shown.status == 0
    assert only_key(shown)["lanes"] == []
    unused, former = shown.document["former"]
    assert former == {
        "address": DEV_ACCOUNT,
        "chain_id": node.chain_id,
        "next_nonce": first + 1,
        "spent_nonces": first,
        "out": 1,
        "sagas": [saga.id],
        "retired": None,
        "abandoned": False,
    }
    assert (unused["address"], unused["next_nonce"], unused["out"]) == (THIRD, None, 0)
    assert f"1 out (sagas {saga.id})" in text.out
    assert f"former   {THIRD}" in text.out


async def test_show_an_abandoned_key(node: Node, valkey: EmbeddedValkey) -> None:
    """A key that was given up as lost is not shown as one that was handed over."""
    async with lane_side(node, valkey.url) as lane:
        await lane.lane.keep("w1", lease_ms=1, hold="")
        await lane.intended("lost")
        await lane.lane.retire("abandon", STRANGER)
        other = RedisLanes(lane.corner.client, lane.corner.keys).lane(node.chain_id, THIRD)
        await other.keep("w1", lease_ms=1, hold="")
        await other.retire("drain", STRANGER)
        await other.retire("finish", STRANGER)
        shown = await show(lane, valkey, DEPLOYER_PRIVATE_KEY=STRANGER_KEY)
        settings = environment(lane, valkey.url, DEPLOYER_PRIVATE_KEY=STRANGER_KEY)
        text = await command(settings, "keys", "show")
    found = {each["address"]: each for each in shown.document["former"]}
    assert {each["retired"] for each in found.values()} == {f"retired:{STRANGER}"}
    assert (found[DEV_ACCOUNT]["abandoned"], found[THIRD]["abandoned"]) == (True, False)
    assert f", abandoned; {STRANGER} signs instead" in text.out
    assert f"nothing is out, retired to {STRANGER}" in text.out


async def test_show_another_pin(node: Node, valkey: EmbeddedValkey) -> None:
    """Where the pin is another's, the key that would sign is shown as the configured one, and the
    pin as what is wrong."""
    async with lane_side(node, valkey.url) as lane:
        await lane.lane.keep("w1", lease_ms=1, hold="")
        saga = await lane.intended("pinned")
        shown = await show(lane, valkey, DEPLOYER_ADDRESS=STRANGER)
        settings = environment(lane, valkey.url, DEPLOYER_ADDRESS=STRANGER)
        text = await command(settings, "keys", "show")
    assert saga.deploy is not None
    assert (shown.status, text.status) == (1, 1)
    key = only_key(shown)
    assert (key["address"], key["kind"], key["pin"]) == (DEV_ACCOUNT, "private key", "wrong")
    assert [each["next_nonce"] for each in key["lanes"]] == [saga.deploy.nonce + 1]
    assert shown.document["former"] == []
    (problem,) = shown.document["problems"]
    assert problem.startswith(
        f"DEPLOYER_ADDRESS is {STRANGER}, but DEPLOYER_PRIVATE_KEY is the key"
    )
    assert f"{DEV_ACCOUNT} private key, from DEPLOYER_PRIVATE_KEY, pin wrong" in text.out


async def test_show_without_a_node(node: Node, valkey: EmbeddedValkey) -> None:
    """Without a node what Redis and the key tell is shown, and one line says what is not."""
    dead = f"http://user:pass@127.0.0.1:{free_port()}/v3/topsecret"
    async with lane_side(node, valkey.url) as lane:
        await lane.lane.keep("w1", lease_ms=1, hold="")
        shown = await show(lane, valkey, WEB3_PROVIDER_URL=dead)
        settings = environment(lane, valkey.url, WEB3_PROVIDER_URL=dead)
        text = await command(settings, "keys", "show")
    assert (shown.status, text.status) == (1, 1)
    key = only_key(shown)
    assert (key["balance_ether"], key["nonce_latest"], key["roles"]) == (None, None, {})
    assert [each["chain_id"] for each in key["lanes"]] == [node.chain_id]
    (problem,) = shown.document["problems"]
    assert problem.startswith("WEB3_PROVIDER_URL: no node answers (http://127.0.0.1:")
    assert "not known: WEB3_PROVIDER_URL: no node answers" in text.out
    for said in (shown.out, text.out, text.err):
        assert "topsecret" not in said
        assert "pass" not in said


async def test_show_without_redis(node: Node, valkey: EmbeddedValkey) -> None:
    """Without Redis what the chain and the key tell is shown, and one line says what is not."""
    async with lane_side(node, valkey.url) as lane:
        shown = await show(lane, valkey, REDIS_URL=f"redis://:topsecret@127.0.0.1:{free_port()}")
    assert shown.status == 1
    key = only_key(shown)
    assert key["lanes"] is None
    assert key["roles"] == {"REGISTRAR_ROLE": True, "DEPLOYER_ROLE": True}
    (problem,) = shown.document["problems"]
    assert problem.startswith("Redis: ")
    assert "topsecret" not in shown.out + shown.err


async def test_show_on_another_chain(node: Node, valkey: EmbeddedValkey) -> None:
    """A node on another chain than CHAIN_ID says is a line, and tells nothing of the key."""
    async with lane_side(node, valkey.url) as lane:
        shown = await show(lane, valkey, CHAIN_ID="1")
    assert shown.status == 1
    assert only_key(shown)["balance_ether"] is None
    (problem,) = shown.document["problems"]
    assert problem.startswith("WEB3_PROVIDER_URL: ")
    assert shown.document["chain_id"] == 1


async def test_show_as_far_as_set(node: Node, valkey: EmbeddedValkey) -> None:
    """Each setting that is missing is a line with its name; the key is shown all the same."""
    async with lane_side(node, valkey.url) as lane:
        names = ("REDIS_URL", "WEB3_PROVIDER_URL")
        shown = await show(lane, valkey, **dict.fromkeys(names))
        assert shown.status == 1
        assert only_key(shown)["address"] == DEV_ACCOUNT
        assert {line.split()[0] for line in shown.document["problems"]} == {*names}
        contracts = dict.fromkeys(("MODEL_REGISTRY_ADDRESS", "TOKEN_MANAGER_ADDRESS"))
        shown = await show(lane, valkey, **contracts)
        assert shown.status == 1
        assert only_key(shown)["roles"] == {}
        assert {line.split()[0] for line in shown.document["problems"]} == {*contracts}


async def test_show_another_contract(node: Node, valkey: EmbeddedValkey) -> None:
    """A contract that knows no roles tells nothing: neither yes nor no."""
    async with lane_side(node, valkey.url) as lane:
        shown = await show(lane, valkey, MODEL_REGISTRY_ADDRESS=THIRD)
    assert shown.status == 1
    assert only_key(shown)["roles"] == {"REGISTRAR_ROLE": None, "DEPLOYER_ROLE": True}
    assert shown.document["problems"] == [f"REGISTRAR_ROLE of {DEV_ACCOUNT}: {THIRD} does not tell"]


async def test_show_a_key_that_cannot_be_opened(
    node: Node, valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    """Where the key cannot be opened, the pinned address is shown for it, and why."""
    async with lane_side(node, valkey.url) as lane:
        shown = await show(
            lane,
            valkey,
            DEPLOYER_PRIVATE_KEY=None,
            DEPLOYER_PRIVATE_KEY_FILE=str(tmp_path / "none"),
            DEPLOYER_ADDRESS=DEV_ACCOUNT,
        )
    assert shown.status == 1
    key = only_key(shown)
    assert (key["address"], key["kind"], key["pin"]) == (DEV_ACCOUNT, "not opened", "not checked")
    assert key["roles"] == {"REGISTRAR_ROLE": True, "DEPLOYER_ROLE": True}
    (problem,) = shown.document["problems"]
    assert problem.startswith("DEPLOYER_PRIVATE_KEY_FILE ")


@pytest.mark.parametrize("name", ["show", "check"])
async def test_no_key_source(node: Node, valkey: EmbeddedValkey, name: str) -> None:
    """Settings that name no key, or two, are one line and exit status 2."""
    async with lane_side(node, valkey.url) as lane:
        none = environment(lane, valkey.url, DEPLOYER_PRIVATE_KEY=None)
        two = environment(lane, valkey.url, DEPLOYER_KMS_KEY_ID="alias/deployer")
    for settings, said in ((none, "is not set"), (two, "only one key source may be")):
        ended = await command(settings, "keys", name)
        assert (ended.status, ended.out) == (2, "")
        (line,) = ended.err.splitlines()
        assert said in line


# --- check


def keys_alone(lane: LaneSide, valkey: EmbeddedValkey, **changes: str | None) -> dict[str, str]:
    """Neither Redis nor a node."""
    away = {"REDIS_URL": None, "WEB3_PROVIDER_URL": None}
    return environment(lane, valkey.url, **(away | changes))


async def test_check_a_key(node: Node, valkey: EmbeddedValkey) -> None:
    """A key that signs as its pin is one line and exit status 0; neither Redis nor a node is
    needed."""
    async with lane_side(node, valkey.url) as lane:
        settings = keys_alone(lane, valkey, DEPLOYER_ADDRESS=DEV_ACCOUNT, CHAIN_ID="11155111")
        checked = await command(settings, "keys", "check", "--json")
        text = await command(keys_alone(lane, valkey), "keys", "check")
    assert (checked.status, checked.err) == (0, "")
    assert checked.document == {
        "ok": True,
        "chain_id": 11155111,
        "chain_id_set": True,
        "keys": [
            {
                "address": DEV_ACCOUNT,
                "kind": "private key",
                "setting": "DEPLOYER_PRIVATE_KEY",
                "ok": True,
                "pin": "ok",
                "problem": None,
            }
        ],
        "problems": [],
    }
    assert text.status == 0
    first, second = text.out.splitlines()
    assert first.startswith(f"{DEV_ACCOUNT} private key, from DEPLOYER_PRIVATE_KEY: signs; no pin")
    assert second == "test transaction for chain 1 (CHAIN_ID is not set); nothing was sent"
    assert node.nonce() == node.nonce(block="pending")


async def test_check_several_keys(node: Node, valkey: EmbeddedValkey, tmp_path: Path) -> None:
    """Each key has its line."""
    keys = tmp_path / "keys"
    keys.write_text(f"{DEV_MNEMONIC_KEY}\n{STRANGER_KEY}\n", "utf-8")
    keys.chmod(0o600)
    async with lane_side(node, valkey.url) as lane:
        settings = keys_alone(
            lane, valkey, DEPLOYER_PRIVATE_KEY=None, DEPLOYER_PRIVATE_KEYS_FILE=str(keys)
        )
        checked = await command(settings, "keys", "check", "--json")
    assert checked.status == 0
    found = [(each["address"], each["ok"]) for each in checked.document["keys"]]
    assert found == [(DEV_ACCOUNT, True), (STRANGER, True)]


async def test_check_another_pin(node: Node, valkey: EmbeddedValkey) -> None:
    """A key that is not the pinned one is one line with both addresses, and exit status 1."""
    async with lane_side(node, valkey.url) as lane:
        settings = keys_alone(lane, valkey, DEPLOYER_ADDRESS=STRANGER)
        checked = await command(settings, "keys", "check", "--json")
        text = await command(settings, "keys", "check")
    assert (checked.status, text.status) == (1, 1)
    assert (checked.document["ok"], checked.document["keys"]) == (False, [])
    (problem,) = checked.document["problems"]
    assert DEV_ACCOUNT in problem
    assert STRANGER in problem
    assert text.out.startswith("no key: DEPLOYER_ADDRESS is ")


async def test_check_a_key_that_does_not_sign(node: Node, valkey: EmbeddedValkey) -> None:
    """A key that is there and does not sign is one line with the reason, and exit status 1."""
    async with lane_side(node, valkey.url) as lane, open_proxy(node.url) as proxy:
        settings = keys_alone(
            lane,
            valkey,
            DEPLOYER_PRIVATE_KEY=None,
            DEPLOYER_SIGNER_URL=proxy.url,
            DEPLOYER_ADDRESS=DEV_ACCOUNT,
            CHAIN_ID=str(node.chain_id),
        )
        assert (await command(settings, "keys", "check")).status == 0
        fault = rpc_error("eth_signTransaction", -32000, "account is locked")
        proxy.always("eth_signTransaction", fault)
        text = await command(settings, "keys", "check")
        checked = await command(settings, "keys", "check", "--json")
    assert (text.status, checked.status) == (1, 1)
    assert "from DEPLOYER_SIGNER_URL: does not sign: " in text.out
    (key,) = checked.document["keys"]
    assert (key["ok"], key["pin"]) == (False, "ok")
    assert "account is locked" in key["problem"]
