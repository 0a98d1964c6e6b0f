"""`saga keys rotate`: a lane is handed over when nothing of it is outstanding, and never before."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.contracts import HAS_ROLE
from adapters.embedded import DEV_ACCOUNT, DEV_MNEMONIC_KEY, EmbeddedValkey, free_port
from adapters.redis_lanes import RedisLanes
from saga.model import State, Step
from tests.integration.lua.store import confirm
from tests.support.chain import STRANGER, STRANGER_KEY, Node
from tests.support.commands import Ended, command, environment, running
from tests.support.lane import LaneSide, lane_side
from tests.support.proxy import EVERY, each_call, lost_request, open_proxy

COUNT = "eth_getTransactionCount"
POOR = "0x00000000000000000000000000000000DeaDBeef"
# The third account of anvil's documented mnemonic.
THIRD = "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC"
THIRD_KEY = "0x5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a"


@pytest.fixture(autouse=True)
def _undone(node: Node) -> Iterator[None]:
    with node.rolled_back():
        node.hold_blocks()
        yield


async def rotate(
    lane: LaneSide, valkey: EmbeddedValkey, *arguments: str, **changes: str | None
) -> Ended:
    settings = environment(lane, valkey.url, **changes)
    return await command(settings, "keys", "rotate", "--to", *arguments)


async def mark(lane: LaneSide) -> str:
    return (await lane.lane.standing()).retired


def send_by_hand(node: Node) -> None:
    """A transaction of the key that this service has not made."""
    node.request("eth_sendTransaction", {"from": DEV_ACCOUNT, "to": STRANGER})


# --- Done.


async def test_an_idle_lane(node: Node, valkey: EmbeddedValkey) -> None:
    """A lane with nothing outstanding is retired at once; what the new key lacks is printed as
    calls that an admin can make as they are, the old key's revokes among them."""
    async with lane_side(node, valkey.url) as lane:
        await lane.lane.keep("w1", lease_ms=1, hold="")
        done = await rotate(lane, valkey, STRANGER.lower(), "--json", DEPLOYER_ADDRESS=DEV_ACCOUNT)
        assert await mark(lane) == f"retired:{STRANGER}"
        text = await rotate(lane, valkey, STRANGER)
    assert (done.status, text.status) == (0, 0)
    document = done.document
    assert (document["old"], document["new"]) == (DEV_ACCOUNT, STRANGER)
    assert (document["result"], document["next_nonce"]) == ("retired", None)
    to_do = document["to_do"]
    assert to_do["funds"] is None
    assert to_do["settings"] == [
        f"DEPLOYER_PRIVATE_KEY: the key of {STRANGER} in place of {DEV_ACCOUNT}",
        f"DEPLOYER_ADDRESS={STRANGER}",
    ]
    assert [(each["contract"], each["call"]) for each in to_do["grants"]] == [
        (node.registry, f"grantRole(keccak256('REGISTRAR_ROLE'), {STRANGER})"),
        (node.manager, f"grantRole(keccak256('DEPLOYER_ROLE'), {STRANGER})"),
    ]
    for call in to_do["grants"] + to_do["revokes"]:
        node.transact(DEV_ACCOUNT, call["contract"], call["data"])
    for contract in (node.registry, node.manager):
        role = {node.registry: "REGISTRAR_ROLE", node.manager: "DEPLOYER_ROLE"}[contract]
        id_ = bytes.fromhex(node.request("web3_sha3", "0x" + role.encode().hex())[2:])
        assert node.read(contract, HAS_ROLE, id_, STRANGER) is True
        assert node.read(contract, HAS_ROLE, id_, DEV_ACCOUNT) is False
    # The second time it is done already, and says the same.
    assert "retired, to" in text.out
    assert f"grantRole(keccak256('DEPLOYER_ROLE'), {STRANGER}) on {node.manager}" in text.out
    assert f"revokeRole(keccak256('REGISTRAR_ROLE'), {DEV_ACCOUNT}) on {node.registry}" in text.out


async def test_a_lane_is_drained(node: Node, valkey: EmbeddedValkey) -> None:
    """What is out is waited for, then what is mined and not confirmed; no nonce is given
    meanwhile, and the lane is retired when the last saga has its result."""
    async with lane_side(node, valkey.url) as lane:
        saga = await lane.intended("in-flight")
        await lane.side.chain.send(saga, Step.DEPLOY)
        assert saga.deploy is not None
        settings = environment(lane, valkey.url)
        async with running(settings, "keys", "rotate", "--to", STRANGER, "--json") as rotating:
            line = await rotating.until_said("waiting")
            assert f"1 out: nonce {saga.deploy.nonce} is out" in line
            assert await mark(lane) == f"draining:{STRANGER}"
            with pytest.raises(AssertionError, match="retired='key 0x"):
                await lane.intended("late")
            node.mine()
            line = await rotating.until_said("waiting")
            assert f"deploy of saga {saga.id}, nonce {saga.deploy.nonce}, is not conf" in line
            assert await mark(lane) == f"draining:{STRANGER}"
            await confirm(lane.journal, saga)
            done = await rotating.ended()
        assert done.status == 0, done.err
        assert done.document["result"] == "retired"
        assert done.document["next_nonce"] == saga.deploy.nonce + 1
        assert await mark(lane) == f"retired:{STRANGER}"


async def test_a_dead_saga_is_no_obstacle(node: Node, valkey: EmbeddedValkey) -> None:
    """A dead-lettered saga holds nothing up once its nonce is spent."""
    async with lane_side(node, valkey.url) as lane:
        saga = await lane.intended("dead")
        await lane.side.chain.send(saga, Step.DEPLOY)
        await lane.dead_lettered(saga)
        refused = await rotate(lane, valkey, STRANGER, "--wait", "0")
        assert refused.status == 1
        node.mine()
        assert (await rotate(lane, valkey, STRANGER, "--wait", "0")).status == 0


async def test_depth(node: Node, valkey: EmbeddedValkey) -> None:
    """What is spent and not CONFIRMATIONS deep yet is outstanding, also what no saga waits for."""
    async with lane_side(node, valkey.url) as lane:
        node.mine(3)
        send_by_hand(node)
        await lane.lane.raise_to(node.nonce() + 1)
        node.mine()
        deep = {"CONFIRMATIONS": "3"}
        for _ in range(2):
            refused = await rotate(lane, valkey, STRANGER, "--wait", "0", **deep)
            assert refused.status == 1
            assert f"nonce {node.nonce() - 1} is not 3 blocks deep yet" in refused.err
            node.mine()
        assert (await rotate(lane, valkey, STRANGER, "--wait", "0", **deep)).status == 0


async def test_finalized(node: Node, valkey: EmbeddedValkey) -> None:
    """With CONFIRMATIONS=finalized, what the chain calls finalized counts."""
    async with lane_side(node, valkey.url) as lane:
        node.mine(100)
        send_by_hand(node)
        await lane.lane.raise_to(node.nonce() + 1)
        node.mine()
        final = {"CONFIRMATIONS": "finalized"}
        refused = await rotate(lane, valkey, STRANGER, "--wait", "0", **final)
        assert f"nonce {node.nonce() - 1} is not finalized yet" in refused.err
        node.mine(100)
        assert (await rotate(lane, valkey, STRANGER, "--wait", "0", **final)).status == 0


async def test_what_others_spent(node: Node, valkey: EmbeddedValkey) -> None:
    """Nonces that somebody spent beyond the lane's are no obstacle: the funds were moved, say."""
    async with lane_side(node, valkey.url) as lane:
        await lane.lane.raise_to(node.nonce())
        send_by_hand(node)
        node.mine()
        assert (await rotate(lane, valkey, STRANGER, "--wait", "0")).status == 0


async def test_without_the_key(node: Node, valkey: EmbeddedValkey) -> None:
    """--from names a key that cannot be opened: no key source is needed."""
    async with lane_side(node, valkey.url) as lane:
        await lane.lane.keep("w1", lease_ms=1, hold="")
        done = await rotate(
            lane, valkey, POOR, "--from", DEV_ACCOUNT, "--json", DEPLOYER_PRIVATE_KEY=None
        )
        assert done.status == 0, done.err
        assert await mark(lane) == f"retired:{POOR}"
    assert done.document["to_do"]["funds"] == f"{POOR} has no funds on this chain"
    assert f"DEPLOYER_ADDRESS={POOR}" in done.document["to_do"]["settings"]


async def test_one_of_several_keys(node: Node, valkey: EmbeddedValkey, tmp_path: Path) -> None:
    """Of several keys the one that --from names is handed over, and the settings that are printed
    are right as they are: the pin names the other keys too."""
    keys, source = tmp_path / "keys", "DEPLOYER_PRIVATE_KEYS_FILE"
    keys.write_text(f"{DEV_MNEMONIC_KEY}\n{STRANGER_KEY}\n", "utf-8")
    keys.chmod(0o600)
    several = {"DEPLOYER_PRIVATE_KEY": None, source: str(keys)}
    pinned = several | {"DEPLOYER_ADDRESS": f"{DEV_ACCOUNT},{STRANGER}"}
    placed = f"{source}: the key of {THIRD} in place of {DEV_ACCOUNT}"
    gone = f"{source}: without the key of {DEV_ACCOUNT}"
    async with lane_side(node, valkey.url) as lane:
        await lane.lane.keep("w1", lease_ms=1, hold="")
        for to, changes, printed in (
            (
                THIRD,
                several,
                (placed, "DEPLOYER_ADDRESS: the addresses of all keys there, or not set"),
            ),
            (STRANGER, pinned, (gone, f"DEPLOYER_ADDRESS={STRANGER}")),
            (THIRD, pinned, (placed, f"DEPLOYER_ADDRESS={STRANGER},{THIRD}")),
        ):
            arguments = (to, "--from", DEV_ACCOUNT, "--json")
            dry = await rotate(lane, valkey, *arguments, "--dry-run", **changes)
            assert dry.document["to_do"]["settings"] == [*printed]
        done = await rotate(lane, valkey, *arguments, **changes)
        assert done.document["to_do"]["settings"] == [*printed]
        keys.write_text(f"{THIRD_KEY}\n{STRANGER_KEY}\n", "utf-8")
        now = pinned | {"DEPLOYER_ADDRESS": printed[1].removeprefix("DEPLOYER_ADDRESS=")}
        checked = await command(environment(lane, valkey.url, **now), "keys", "check", "--json")
    assert checked.status == 0, checked.out
    assert {key["address"] for key in checked.document["keys"]} == {STRANGER, THIRD}


async def test_settings_of_another_key(node: Node, valkey: EmbeddedValkey) -> None:
    """--from with the settings of another key says nothing about those."""
    async with lane_side(node, valkey.url) as lane:
        await lane.lane.keep("w1", lease_ms=1, hold="")
        of_another = {"DEPLOYER_PRIVATE_KEY": STRANGER_KEY, "DEPLOYER_ADDRESS": STRANGER}
        done = await rotate(
            lane, valkey, STRANGER, "--from", DEV_ACCOUNT, "--json", "--dry-run", **of_another
        )
    first, second = done.document["to_do"]["settings"]
    assert first.startswith("the key source (DEPLOYER_PRIVATE_KEY, ")
    assert second == f"DEPLOYER_ADDRESS={STRANGER}"


async def test_nobody_keeps_the_lane(node: Node, valkey: EmbeddedValkey) -> None:
    """Where no replica has the key, waiting alone would bring nothing: the line says so."""
    async with lane_side(node, valkey.url) as lane:
        await lane.intended("unkept")
        settings = environment(lane, valkey.url)
        async with running(settings, "keys", "rotate", "--to", STRANGER) as rotating:
            line = await rotating.until_said("waiting")
            assert "is out; no replica keeps this lane: start one with the key" in line
            await lane.lane.keep("w1", lease_ms=600_000, hold="")
            line = await rotating.until_said("waiting")
            assert "no replica" not in line
            rotating.terminate()
            await rotating.ended()


# --- Not done.


async def test_time_is_over(node: Node, valkey: EmbeddedValkey) -> None:
    """What is still out at the end is named with its saga; the lane gives nonces again."""
    async with lane_side(node, valkey.url) as lane:
        saga = await lane.intended("stuck")
        assert saga.deploy is not None
        refused = await rotate(lane, valkey, STRANGER, "--wait", "0", "--json")
        assert (refused.status, refused.out) == (1, "")
        assert f"nonce {saga.deploy.nonce}: deploy of saga {saga.id}, model stuck" in refused.err
        last = refused.err.splitlines()[-1]
        assert last == f"saga: not drained after 0 s: nonce {saga.deploy.nonce} is out"
        assert await mark(lane) == ""
        await lane.intended("goes-on")


async def test_foreign_transactions(node: Node, valkey: EmbeddedValkey) -> None:
    """What waits on a node and is unknown to Redis is refused by its nonces."""
    async with lane_side(node, valkey.url) as lane:
        send_by_hand(node)
        send_by_hand(node)
        refused = await rotate(lane, valkey, STRANGER, "--wait", "0")
        assert refused.status == 1
        first = node.nonce()
        assert f"nonces {first} to {first + 1} of the key wait on a node" in refused.err
        assert await mark(lane) == ""


async def test_no_node_at_first(node: Node, valkey: EmbeddedValkey) -> None:
    """Without a node nothing is marked; the line holds no URL's path."""
    dead = f"http://127.0.0.1:{free_port()}/v3/topsecret"
    async with lane_side(node, valkey.url) as lane:
        refused = await rotate(lane, valkey, STRANGER, WEB3_PROVIDER_URL=dead)
        assert (refused.status, refused.out) == (1, "")
        assert "WEB3_PROVIDER_URL: no node answers" in refused.err
        assert "topsecret" not in refused.err
        assert await mark(lane) == ""


async def test_stopped_while_the_node_is_away(node: Node, valkey: EmbeddedValkey) -> None:
    """A node that goes away proves nothing, and SIGTERM lifts the mark."""
    async with lane_side(node, valkey.url) as lane, open_proxy(node.url) as proxy:
        await lane.intended("unproven")
        settings = environment(lane, valkey.url, WEB3_PROVIDER_URL=proxy.url)
        async with running(settings, "keys", "rotate", "--to", STRANGER) as rotating:
            await rotating.until_said("waiting, 1 out")
            proxy.always(EVERY, lost_request)
            await rotating.until_said("waiting, WEB3_PROVIDER_URL: ")
            assert await mark(lane) == f"draining:{STRANGER}"
            rotating.terminate()
            ended = await rotating.ended()
        assert (ended.status, ended.out) == (1, "")
        assert "Traceback" not in ended.err
        assert ended.err.splitlines()[-1] == "saga: stopped: nothing was handed over"
        assert await mark(lane) == ""


async def test_one_node_that_lags(node: Node, valkey: EmbeddedValkey) -> None:
    """Every endpoint that answers must have all of it: one that has not is waited for."""
    async with lane_side(node, valkey.url) as lane, open_proxy(node.url) as proxy:
        await lane.lane.raise_to(node.nonce() + 1)
        before = hex(node.nonce())
        send_by_hand(node)
        node.mine()
        proxy.always(
            COUNT, each_call(lambda call: {"result": before} if call["method"] == COUNT else None)
        )
        both = {"WEB3_PROVIDER_URL": f"{node.url},{proxy.url}"}
        refused = await rotate(lane, valkey, STRANGER, "--wait", "0", **both)
        assert refused.status == 1
        assert f"nonce {int(before, 16)} is out" in refused.err
        proxy.heal()
        assert (await rotate(lane, valkey, STRANGER, "--wait", "0", **both)).status == 0


# --- Undone.


async def test_undo(node: Node, valkey: EmbeddedValkey) -> None:
    """--to the old key itself lifts the mark, whatever it is; a dry run lifts nothing."""
    async with lane_side(node, valkey.url) as lane:
        for what in ("drain", "finish"):
            await lane.lane.retire("drain", STRANGER)
            if what == "finish":
                await lane.lane.retire("finish", STRANGER)
            dry = await rotate(lane, valkey, DEV_ACCOUNT, "--dry-run", "--json")
            assert dry.document["result"] == "would be lifted"
            assert await mark(lane) != ""
            done = await rotate(lane, valkey, DEV_ACCOUNT, "--json")
            assert done.document["result"] == "lifted"
            assert await mark(lane) == ""
        text = await rotate(lane, valkey, DEV_ACCOUNT)
        assert text.out == f"{DEV_ACCOUNT} on chain {node.chain_id}: nothing to lift\n"
        await lane.intended("again")


async def test_hand_back(node: Node, valkey: EmbeddedValkey) -> None:
    """A retired lane goes to no third key; the key that has it hands it back."""
    async with lane_side(node, valkey.url) as lane:
        assert (await rotate(lane, valkey, STRANGER)).status == 0
        for arguments in ((POOR,), (POOR, "--dry-run")):
            refused = await rotate(lane, valkey, *arguments)
            assert (refused.status, refused.out) == (1, "")
            (line,) = refused.err.splitlines()
            assert f"is retired already, to {STRANGER}: hand it back first with" in line
        back = await rotate(lane, valkey, DEV_ACCOUNT, DEPLOYER_PRIVATE_KEY=STRANGER_KEY)
        assert back.status == 0
        assert await mark(lane) == ""
        heir = RedisLanes(lane.corner.client, lane.corner.keys).lane(node.chain_id, STRANGER)
        assert (await heir.standing()).retired == f"retired:{DEV_ACCOUNT}"


async def test_dry_run(node: Node, valkey: EmbeddedValkey) -> None:
    """A dry run changes nothing, and says what a drain would wait for and what the key lacks."""
    async with lane_side(node, valkey.url) as lane:
        saga = await lane.intended("rehearsed")
        before = await lane.corner.contents()
        dry = await rotate(lane, valkey, POOR, "--dry-run", "--json")
        text = await rotate(lane, valkey, POOR, "--dry-run")
        assert await lane.corner.contents() == before
    assert (dry.status, text.status) == (0, 0)
    assert saga.deploy is not None
    assert dry.document["result"] == "would be drained"
    assert dry.document["reasons"] == [f"nonce {saga.deploy.nonce} is out"]
    assert len(dry.document["to_do"]["grants"]) == 2
    assert f"it would wait: nonce {saga.deploy.nonce} is out" in text.out
    assert f"fund: {POOR} has no funds on this chain" in text.out
    assert saga.state is State.VALIDATED


async def test_a_new_address_that_cannot_sign(node: Node, valkey: EmbeddedValkey) -> None:
    """What nobody can have the key of is no new key: the zero address, a contract. An account that
    has delegated its code (EIP-7702) still signs."""
    async with lane_side(node, valkey.url) as lane:
        for to, said in (
            ("0x" + "00" * 20, "is nobody's address"),
            (node.registry, "is a contract"),
        ):
            for more in ((), ("--dry-run",)):
                refused = await rotate(lane, valkey, to, *more)
                assert (refused.status, refused.out) == (1, "")
                (line,) = refused.err.splitlines()
                assert line.startswith(f"saga: --to {to} {said}")
        assert await mark(lane) == ""
        node.request("anvil_setCode", POOR, "0xef0100" + "12" * 20)
        assert (await rotate(lane, valkey, POOR, "--dry-run")).status == 0


async def test_a_mistyped_new_address(node: Node, valkey: EmbeddedValkey) -> None:
    """After a handover to an address that nobody has, the old key's own settings lift the mark,
    and the next rotation's line says so."""
    async with lane_side(node, valkey.url) as lane:
        assert (await rotate(lane, valkey, POOR)).status == 0
        again = await rotate(lane, valkey, STRANGER)
        assert f"lift the mark with `saga keys rotate --to {DEV_ACCOUNT}`" in again.err
        back = await rotate(lane, valkey, DEV_ACCOUNT, "--from", POOR)
        assert back.status == 1
        assert f"--from {POOR} never signed here" in back.err
        assert (await rotate(lane, valkey, DEV_ACCOUNT)).status == 0
        assert await mark(lane) == ""


async def test_what_is_asked_wrongly(node: Node, valkey: EmbeddedValkey, tmp_path: Path) -> None:
    """A wrong address, one that never signed here, and several keys without --from, are one line
    that says what to give."""
    keys = tmp_path / "keys"
    keys.write_text(f"{DEV_MNEMONIC_KEY}\n{STRANGER_KEY}\n", "utf-8")
    keys.chmod(0o600)
    several = {"DEPLOYER_PRIVATE_KEY": None, "DEPLOYER_PRIVATE_KEYS_FILE": str(keys)}
    async with lane_side(node, valkey.url) as lane:
        for arguments, changes, said in (
            (("0x12",), {}, "--to is no address"),
            ((STRANGER, "--from", "me"), {}, "--from is no address"),
            ((STRANGER, "--from", THIRD), {}, f"--from {THIRD} never signed here on chain "),
            ((POOR,), several, f"give --from, one of {DEV_ACCOUNT}, {STRANGER}"),
        ):
            refused = await rotate(lane, valkey, *arguments, **changes)
            assert (refused.status, refused.out) == (1, "")
            (line,) = refused.err.splitlines()
            assert said in line
        await lane.lane.keep("w1", lease_ms=1, hold="")
        done = await rotate(lane, valkey, STRANGER, "--from", DEV_ACCOUNT, **several)
        assert done.status == 0
