"""`saga chain` as an operator meets it: on real replicas, a real Redis, and a chain whose blocks
come when the test says so."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from adapters.embedded import DEV_ACCOUNT, free_port
from saga.audit import audit
from saga.cli.chain import _carry_out
from saga.cli.chain_report import spans
from saga.cli.desk import open_desk
from saga.cli.replacement import plan_replacements
from saga.config import Settings
from saga.messages import identify
from saga.model import Saga, State
from saga.store import redis_keys
from tests.support.chain import STRANGER, Node
from tests.support.fleet import Fleet, message

ROOT = Path(__file__).parents[2]
MakeFleet = Callable[..., Fleet]
COMMAND_SECONDS = 60


def saga(
    environment: Mapping[str, str], *arguments: str, stdin: int = subprocess.DEVNULL
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "saga", *arguments],
        env=dict(environment),
        cwd=ROOT,
        stdin=stdin,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
    )


def command(
    fleet: Fleet, *arguments: str, more: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """`saga chain …` in the fleet's environment, without a terminal."""
    return saga(fleet.clean_environment() | dict(more or {}), "chain", *arguments)


def lines_of(ended: "subprocess.CompletedProcess[str]") -> list[dict[str, Any]]:
    assert ended.returncode == 0, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines()]


def status_of(fleet: Fleet, **more: str) -> dict[str, Any]:
    (status,) = lines_of(command(fleet, "status", "--json", more=more))
    return status


def shown(fleet: Fleet, model_id: str) -> dict[str, Any]:
    (document,) = lines_of(saga(fleet.clean_environment(), "show", model_id, "--json"))
    return document


def resume(fleet: Fleet, model_id: str) -> None:
    (line,) = lines_of(saga(fleet.clean_environment(), "resume", model_id, "--json"))
    assert line["result"] == "resumed"


@pytest.fixture(autouse=True)
def _empty_pool(service_node: Node) -> Iterator[None]:
    """Each test begins and ends with nothing pending."""
    yield
    service_node.request("anvil_dropAllTransactions")


@contextmanager
def blocks_held(node: Node) -> Iterator[None]:
    """No block but by `node.mine()`; afterwards one a second again."""
    node.request("evm_setIntervalMining", 0)
    try:
        yield
    finally:
        node.request("evm_setIntervalMining", 1)


async def sent_out(fleet: Fleet, node: Node, sent: Sequence[bytes]) -> None:
    """Start a replica, give it the messages, wait until the pool has both transactions of each."""
    fleet.start()
    await fleet.until_started()
    before = node.nonce()
    fleet.send(sent)
    await fleet.until(lambda *_: node.nonce(block="pending") == before + 2 * len(sent))


def saga_id(raw: bytes) -> str:
    return str(identify(raw).saga_id)


def lane_key(fleet: Fleet, node: Node) -> str:
    return redis_keys(fleet.settings).lane(node.chain_id, DEV_ACCOUNT)


def records_of(fleet: Fleet, node: Node, nonces: Sequence[int]) -> list[Any]:
    keys = redis_keys(fleet.settings)
    with fleet.redis as client:
        return [client.hgetall(keys.nonce(node.chain_id, DEV_ACCOUNT, n)) for n in nonces]


# --- status


def test_status_of_an_idle_lane(service_node: Node, fleet_of: MakeFleet) -> None:
    """Without any replica, and before the first nonce, status tells what there is to tell."""
    fleet = fleet_of()
    before = service_node.block_number
    status = status_of(fleet)
    assert (status["chain_id"], status["network"]) == (service_node.chain_id, "localhost")
    assert before <= status["head"] <= service_node.block_number
    (endpoint,) = status["endpoints"]
    assert endpoint["host"] == service_node.url
    assert (endpoint["kind"], endpoint["circuit"], endpoint["usable"]) == ("http", "closed", True)
    assert before <= endpoint["head"] <= status["head"]
    assert (endpoint["lag_blocks"], endpoint["error_rate"]) == (0, 0.0)
    assert endpoint["latency_ms"] > 0
    assert status["fees"]["limit_max_fee_gwei"] == "100"
    assert status["fees"]["offer_max_fee_gwei"] is not None
    assert (status["would_hold"], status["problems"]) == ([], [])
    lane = status["lanes"][0]
    assert lane["address"] == DEV_ACCOUNT
    assert (lane["next_nonce"], lane["keeper"], lane["hold"]) == (None, None, None)
    assert lane["spent_nonces"] == lane["pending_nonces"] == service_node.nonce()
    assert (lane["outstanding"], lane["holes"], lane["unknown_pending"]) == ([], [], [])
    balance = int(service_node.request("eth_getBalance", DEV_ACCOUNT, "latest"), 16)
    assert lane["balance_ether"] == f"{balance // 10**18}.{balance % 10**18:018}".rstrip("0")
    text = command(fleet, "status", "--dry-run").stdout
    assert f"balance {lane['balance_ether']} ether" in text
    assert "a new saga would be sent now" in text


async def test_status_of_what_is_out(service_node: Node, fleet_of: MakeFleet) -> None:
    """Each nonce that is out is shown with its saga, its transactions and who knows them."""
    sent = [message("out-1"), message("out-2")]
    fleet = fleet_of(MAX_IN_FLIGHT="4")
    with blocks_held(service_node):
        await sent_out(fleet, service_node, sent)
        status = status_of(fleet)
        lane = status["lanes"][0]
        first = service_node.nonce()
        assert (lane["spent_nonces"], lane["next_nonce"]) == (first, first + 4)
        assert lane["pending_nonces"] == first + 4
        assert [each["nonce"] for each in lane["outstanding"]] == list(range(first, first + 4))
        assert [each["step"] for each in lane["outstanding"]] == ["deploy", "register"] * 2
        assert {each["model_id"] for each in lane["outstanding"]} == {"out-1", "out-2"}
        assert {each["state"] for each in lane["outstanding"]} == {"VALIDATED"}
        for each in lane["outstanding"]:
            (attempt,) = each["attempts"]
            assert (attempt["kind"], attempt["known"]) == ("call", True)
            assert each["age_seconds"] >= 0
        assert lane["keeper"]
        assert lane["keeper_lease_seconds"] > 0
        assert (lane["holes"], lane["unknown_pending"]) == ([], [])
        assert status["would_hold"] == ["4 nonces are out, MAX_IN_FLIGHT is 4"]
        text = command(fleet, "status").stdout
        assert lane["outstanding"][3]["attempts"][0]["hash"] in text
        fleet.end()
        service_node.request("anvil_dropAllTransactions")
        for each in status_of(fleet)["lanes"][0]["outstanding"]:
            assert each["attempts"][0]["known"] is False
    fleet.start()
    assert audit(await fleet.settled(sent)) == []


def test_status_shows_holes_and_strangers(service_node: Node, fleet_of: MakeFleet) -> None:
    """A given nonce without bytes is a hole; a pending one without a record is not ours."""
    fleet = fleet_of()
    with blocks_held(service_node):
        first = service_node.nonce()
        with fleet.redis as client:
            client.hset(lane_key(fleet, service_node), "next", first + 70)
            kept = {"keeper": "w9", "keeper_until": 2**52, "hold": "base fee 200 gwei is too much"}
            client.hset(lane_key(fleet, service_node), mapping=kept)
        service_node.request("eth_sendTransaction", {"from": DEV_ACCOUNT, "to": STRANGER})
        lane = status_of(fleet)["lanes"][0]
        text = command(fleet, "status").stdout
    assert lane["holes"] == list(range(first, first + 70))
    assert lane["unknown_pending"] == [first]
    assert (lane["outstanding"], lane["outstanding_more"]) == ([], 6)
    assert lane["hold"] == "base fee 200 gwei is too much"
    assert f"nonces {first} to {first + 69}: no transaction is stored" in text
    assert f"nonces {first} are pending on a node and unknown to Redis" in text
    assert "and 6 more nonces are out" in text
    assert "base fee 200 gwei is too much" in text


def test_status_says_what_would_hold_a_saga(fleet_of: MakeFleet) -> None:
    """Where the market is above a limit, status says so with the setting's name."""
    status = status_of(fleet_of(), MAX_FEE_GWEI="0.000000001")
    (reason,) = status["would_hold"]
    assert reason.endswith("is above MAX_FEE_GWEI 0.000000001")
    assert status["fees"]["offer_max_fee_gwei"] is None


def test_status_does_not_need_what_a_replica_needs(fleet_of: MakeFleet) -> None:
    """Missing contracts or roles are problems that status shows, not reasons to show nothing."""
    status = status_of(fleet_of(MODEL_REGISTRY_ADDRESS="0x" + "12" * 20))
    (problem,) = status["problems"]
    assert problem.startswith("MODEL_REGISTRY_ADDRESS: no contract at 0x1212")


@pytest.mark.parametrize("arguments", [("status",), ("bump", "x"), ("cancel", "x", "--yes")])
def test_no_node_is_an_error_of_the_settings(
    fleet_of: MakeFleet, arguments: tuple[str, ...]
) -> None:
    """A node that does not answer is one line and exit status 2; the line holds no URL's path."""
    fleet = fleet_of(WEB3_PROVIDER_URL=f"http://user:pass@127.0.0.1:{free_port()}/v3/topsecret")
    ended = command(fleet, *arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith("saga: WEB3_PROVIDER_URL: no node answers (http://127.0.0.1:")
    assert "topsecret" not in line
    assert "pass" not in line


def test_another_chain_is_an_error_of_the_settings(fleet_of: MakeFleet) -> None:
    """A node on another chain than CHAIN_ID says is one line and exit status 2."""
    ended = command(fleet_of(CHAIN_ID="1"), "status")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.splitlines()[-1].startswith("saga: CHAIN_ID is 1, but ")


def test_one_dead_endpoint_is_shown(service_node: Node, fleet_of: MakeFleet) -> None:
    """An endpoint that does not answer is not used, and status is told by the other."""
    dead = f"http://127.0.0.1:{free_port()}"
    fleet = fleet_of(WEB3_PROVIDER_URL=f"{dead}/v3/topsecret,{service_node.url}")
    status = status_of(fleet)
    assert [(each["host"], each["usable"]) for each in status["endpoints"]] == [
        (dead, False),
        (service_node.url, True),
    ]
    assert status["endpoints"][0]["error_rate"] > 0
    assert "topsecret" not in command(fleet, "status").stdout


def test_runs_of_numbers_are_short() -> None:
    """Three numbers in a row are written as a span, one alone as itself."""
    assert spans([3, 4, 5, 9, 11, 12]) == "3 to 5, 9, 11 to 12"
    assert spans([]) == ""


# --- bump


async def test_a_bump_is_stored_told_and_mined(service_node: Node, fleet_of: MakeFleet) -> None:
    """A bump puts a better paid transaction on each nonce that is out, and the saga ends with it;
    a dry run before it changes nothing."""
    raw = message("bumped")
    fleet = fleet_of()
    with blocks_held(service_node):
        await sent_out(fleet, service_node, [raw])
        nonces = [service_node.nonce(), service_node.nonce() + 1]
        before = records_of(fleet, service_node, nonces)
        dry = lines_of(command(fleet, "bump", "bumped", "--dry-run", "--json"))
        assert records_of(fleet, service_node, nonces) == before
        assert [line["done"] for line in dry] == [False, False]
        assert all("transaction_hash" not in line for line in dry)
        done = lines_of(command(fleet, "bump", saga_id(raw), "--json"))
        assert [(line["step"], line["nonce"]) for line in done] == [
            ("deploy", nonces[0]),
            ("register", nonces[1]),
        ]
        document = shown(fleet, "bumped")
        for line, would, name in zip(done, dry, ("deployment", "registration"), strict=True):
            assert line["result"] == "sent"
            assert line["max_fee_gwei"] == would["max_fee_gwei"]
            assert float(line["max_fee_gwei"]) >= 1.125 * float(line["old_max_fee_gwei"])
            tx = service_node.request("eth_getTransactionByHash", line["transaction_hash"])
            assert int(tx["nonce"], 16) == line["nonce"]
            assert document[name]["transaction_hashes"] == [
                line["replaces"],
                line["transaction_hash"],
            ]
            (entry,) = [e for e in document["history"] if e.get("tx") == line["transaction_hash"]]
            assert entry["kind"] == "attempt"
            assert "@" in entry["worker"]
            assert entry["note"].startswith(f"bump, nonce {line['nonce']}, at most ")
        service_node.mine()
        evidence = await fleet.settled([raw])
    assert audit(evidence) == []
    ended = evidence.sagas[saga_id(raw)]
    assert ended.state is State.ACKED
    assert ended.deployment is not None
    assert ended.registration is not None
    assert ended.deployment.receipt.tx_hash == done[0]["transaction_hash"]
    assert ended.registration.receipt.tx_hash == done[1]["transaction_hash"]
    late = command(fleet, "bump", "bumped")
    assert late.returncode == 1
    assert late.stderr == f"saga: saga {saga_id(raw)} is ACKED and has no transaction out\n"


async def test_a_bump_keeps_to_the_limits(service_node: Node, fleet_of: MakeFleet) -> None:
    """A bump above a limit is refused with the setting's name, and nothing is stored."""
    raw = message("limited")
    fleet = fleet_of()
    with blocks_held(service_node):
        await sent_out(fleet, service_node, [raw])
        nonces = [service_node.nonce(), service_node.nonce() + 1]
        before = records_of(fleet, service_node, nonces)
        for more, name in (
            ({"MAX_FEE_GWEI": "0.000000001"}, "MAX_FEE_GWEI 0.000000001"),
            ({"MAX_DEPLOYMENT_COST_WEI": "1"}, "MAX_DEPLOYMENT_COST_WEI 1"),
        ):
            refused = command(fleet, "bump", "limited", "--json", more=more)
            assert (refused.returncode, refused.stdout) == (1, "")
            assert refused.stderr.startswith(f"saga: nonce {nonces[0]}: a replacement of ")
            assert refused.stderr.rstrip().endswith(name)
        assert records_of(fleet, service_node, nonces) == before
    assert audit(await fleet.settled([raw])) == []


def test_what_is_not_there_is_refused(fleet_of: MakeFleet) -> None:
    """No such saga is one line and exit status 1."""
    for arguments in (("bump", "nothing"), ("cancel", "nothing", "--yes")):
        ended = command(fleet_of(), *arguments)
        assert (ended.returncode, ended.stdout) == (1, "")
        assert ended.stderr == "saga: no saga and no model 'nothing'\n"


async def test_a_record_that_changed_is_left_alone(service_node: Node, fleet_of: MakeFleet) -> None:
    """What was decided on a record of before is neither stored nor sent, and is said."""
    raw = message("overtaken")
    fleet = fleet_of()
    with blocks_held(service_node):
        await sent_out(fleet, service_node, [raw])
        settings = Settings.model_validate(
            {k: v for k, v in fleet.environment.items() if k in Settings.model_fields}
        )
        async with open_desk(settings) as desk:
            found = await desk.views.get(saga_id(raw))
            assert found is not None
            _, planned, _ = await plan_replacements(desk, found, "bump")
            first = await _carry_out(desk, found, planned, "bump")
            dearer = [
                msgspec.structs.replace(
                    plan, price=msgspec.structs.replace(plan.price, max_fee=9 * 10**9)
                )
                for plan in planned
            ]
            second = await _carry_out(desk, found, dearer, "bump")
        assert [line.done for line in first] == [True, True]
        assert [line.done for line in second] == [False, False]
        for line, kept in zip(second, first, strict=True):
            assert line.result == (
                "left alone: the record has changed meanwhile: the last transaction is "
                f"{kept.transaction_hash}, at most {kept.max_fee_gwei} gwei"
            )
        (record, _) = records_of(
            fleet, service_node, [service_node.nonce(), service_node.nonce() + 1]
        )
        assert record[b"n"] == b"2"
    assert audit(await fleet.settled([raw])) == []


# --- cancel


def dead(raw: bytes) -> Callable[[dict[str, Saga], dict[str, int]], bool]:
    def done(sagas: dict[str, Saga], _depths: dict[str, int]) -> bool:
        return sagas[saga_id(raw)].state is State.DEAD_LETTERED

    return done


async def test_a_cancelled_saga_ends_and_deploys_once_when_resumed(
    service_node: Node, fleet_of: MakeFleet
) -> None:
    """A cancelled saga is dead-lettered without a token; resumed, it ends with exactly one."""
    raw = message("cancelled")
    fleet = fleet_of()
    tokens = service_node.tokens()
    with blocks_held(service_node):
        await sent_out(fleet, service_node, [raw])
        nonces = [service_node.nonce(), service_node.nonce() + 1]
        before = records_of(fleet, service_node, nonces)
        dry = lines_of(command(fleet, "cancel", "cancelled", "--dry-run", "--json"))
        assert [line["kind"] for line in dry] == ["cancel", "cancel"]
        assert records_of(fleet, service_node, nonces) == before
        done = lines_of(command(fleet, "cancel", "cancelled", "--yes", "--json"))
        assert [(line["nonce"], line["result"]) for line in done] == [
            (nonces[0], "sent"),
            (nonces[1], "sent"),
        ]
        for line in done:
            tx = service_node.request("eth_getTransactionByHash", line["transaction_hash"])
            assert (tx["to"], tx["value"], tx["input"]) == (DEV_ACCOUNT.lower(), "0x0", "0x")
        service_node.mine()
        await fleet.until(dead(raw))
        document = shown(fleet, "cancelled")
        assert document["error_class"] == "cancelled"
        assert done[0]["transaction_hash"] in document["error"]
        cancels = [
            entry
            for entry in document["history"]
            if (entry.get("note") or "").startswith("cancel,")
        ]
        assert [entry["tx"] for entry in cancels] == [line["transaction_hash"] for line in done]
        assert all("@" in entry["worker"] for entry in cancels)
        assert (service_node.tokens(), service_node.nonce()) == (tokens, nonces[1] + 1)
        nothing = command(fleet, "cancel", "cancelled", "--yes")
        assert (nothing.returncode, nothing.stdout) == (1, "")
        assert "is DEAD_LETTERED and has no transaction out" in nothing.stderr
        resume(fleet, "cancelled")
        await fleet.until(lambda *_: service_node.nonce(block="pending") == nonces[1] + 3)
        service_node.mine()
        evidence = await fleet.settled([raw])
    assert audit(evidence) == []
    ended = evidence.sagas[saga_id(raw)]
    assert ended.state is State.ACKED
    assert ended.deployment is not None
    assert service_node.tokens() - tokens == {ended.deployment.token}


async def test_a_cancellation_that_is_too_late_is_refused(
    service_node: Node, fleet_of: MakeFleet
) -> None:
    """What is mined is not cancelled: the refusal names the block, and nothing is stored."""
    raw = message("too-late")
    fleet = fleet_of(CONFIRMATIONS="3")
    with blocks_held(service_node):
        await sent_out(fleet, service_node, [raw])
        nonces = [service_node.nonce(), service_node.nonce() + 1]
        before = records_of(fleet, service_node, nonces)
        service_node.mine()
        block = service_node.block_number
        for arguments in (("bump", "too-late"), ("cancel", "too-late", "--yes")):
            refused = command(fleet, *arguments)
            assert (refused.returncode, refused.stdout) == (1, "")
            assert f"is mined in block {block}: too late to {arguments[0]}" in refused.stderr
        assert records_of(fleet, service_node, nonces) == before
        service_node.mine(2)
        evidence = await fleet.settled([raw])
    assert audit(evidence) == []
    assert evidence.sagas[saga_id(raw)].state is State.ACKED


async def test_a_dead_saga_s_nonces_are_spent(service_node: Node, fleet_of: MakeFleet) -> None:
    """The nonces of a saga that has ended are filled; it stays as it was, and can be resumed."""
    raw = message("abandoned")
    fleet = fleet_of(MAX_RETRIES="0", DEPLOYMENT_TIMEOUT="1")
    tokens = service_node.tokens()
    with blocks_held(service_node):
        await sent_out(fleet, service_node, [raw])
        # Blocks go by that have no room for it.
        service_node.request("evm_setBlockGasLimit", hex(100_000))
        await fleet.until(dead(raw), each=service_node.mine)
        service_node.request("evm_setBlockGasLimit", hex(30_000_000))
        done = lines_of(command(fleet, "cancel", "abandoned", "--yes", "--json"))
        assert [(line["kind"], line["result"]) for line in done] == [("fill", "sent")] * 2
        service_node.mine()
        assert service_node.nonce() == done[1]["nonce"] + 1
        assert service_node.tokens() == tokens
        late = command(fleet, "cancel", "abandoned", "--yes")
        assert late.returncode == 1
        assert "is mined in block" in late.stderr
        document = shown(fleet, "abandoned")
        assert document["error_class"] == "retries_exhausted"
        assert [each["kind"] for each in document["deployment"]["transactions"]] == ["call", "fill"]
    fleet.end()
    again = fleet_of(MAX_RETRIES="5")
    again.start()
    resume(again, "abandoned")
    evidence = await again.settled([raw])
    assert audit(evidence) == []
    assert len(service_node.tokens() - tokens) == 1


def on_terminal(fleet: Fleet, answer: bytes, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """The command with a terminal as its standard input, on which somebody answers."""
    master, slave = pty.openpty()
    try:
        os.write(master, answer)
        return saga(fleet.clean_environment(), "chain", *arguments, stdin=slave)
    finally:
        os.close(slave)
        os.close(master)


async def test_a_cancellation_is_confirmed(service_node: Node, fleet_of: MakeFleet) -> None:
    """Without --yes a terminal is asked, where there is none the command refuses."""
    raw = message("asked")
    fleet = fleet_of()
    with blocks_held(service_node):
        await sent_out(fleet, service_node, [raw])
        nonces = [service_node.nonce(), service_node.nonce() + 1]
        before = records_of(fleet, service_node, nonces)
        silent = command(fleet, "cancel", "asked")
        assert (silent.returncode, silent.stdout) == (1, "")
        assert "give --yes" in silent.stderr
        no = on_terminal(fleet, b"n\n", "cancel", "asked")
        assert (no.returncode, no.stdout) == (1, "")
        assert f"deploy, nonce {nonces[0]}: would be sent: a self-send of nothing" in no.stderr
        assert no.stderr.endswith("saga: nothing was cancelled\n")
        assert records_of(fleet, service_node, nonces) == before
        yes = lines_of(on_terminal(fleet, b"y\n", "cancel", "asked", "--json"))
        assert [line["done"] for line in yes] == [True, True]
        service_node.mine()
        await fleet.until(dead(raw))


# --- show


async def test_show_tells_attempts_and_holds(service_node: Node, fleet_of: MakeFleet) -> None:
    """`show` needs no key to list every transaction of a step, and why the lane is held."""
    raw = message("shown")
    fleet = fleet_of()
    with blocks_held(service_node):
        await sent_out(fleet, service_node, [raw])
        assert "held" not in shown(fleet, "shown")
        (bumped, _) = lines_of(command(fleet, "bump", "shown", "--json"))
        fleet.end()
        with fleet.redis as client:
            kept = {"keeper": "w9", "keeper_until": 2**52, "hold": "the price is too high"}
            client.hset(lane_key(fleet, service_node), mapping=kept)
        document = shown(fleet, "shown")
        assert document["held"] == "the price is too high"
        assert document["deployment"]["transactions"] == [
            {
                "hash": bumped["replaces"],
                "kind": "call",
                "max_fee_gwei": bumped["old_max_fee_gwei"],
                "max_priority_fee_gwei": bumped["old_max_priority_fee_gwei"],
            },
            {
                "hash": bumped["transaction_hash"],
                "kind": "call",
                "max_fee_gwei": bumped["max_fee_gwei"],
                "max_priority_fee_gwei": bumped["max_priority_fee_gwei"],
            },
        ]
        keyless = {
            name: value
            for name, value in fleet.clean_environment().items()
            if name not in Settings.model_fields or name == "REDIS_URL"
        }
        text = saga(keyless, "show", "shown").stdout
        assert "held       the price is too high" in text
        assert f"nonce {bumped['nonce']}, not confirmed yet" in text
        for hash_, fee in (
            (bumped["replaces"], bumped["old_max_fee_gwei"]),
            (bumped["transaction_hash"], bumped["max_fee_gwei"]),
        ):
            assert f"{hash_} call at most {fee} gwei" in text
    fleet.start()
    assert audit(await fleet.settled([raw])) == []


async def test_what_is_unreadable_stays_out_of_the_output(
    service_node: Node, fleet_of: MakeFleet
) -> None:
    """A record that nobody of ours wrote is logged on stderr; stdout has JSON alone."""
    raw = message("unreadable")
    fleet = fleet_of()
    with blocks_held(service_node):
        await sent_out(fleet, service_node, [raw])
        fleet.end()
        nonce = service_node.nonce()
        keys = redis_keys(fleet.settings)
        with fleet.redis as client:
            client.hset(keys.nonce(service_node.chain_id, DEV_ACCOUNT, nonce), "a0", "no JSON")
        ended = saga(fleet.clean_environment(), "show", "unreadable", "--json")
        (document,) = lines_of(ended)
        assert len(document["deployment"]["transaction_hashes"]) == 1
        assert "lane.unreadable" in ended.stderr
        refused = command(fleet, "bump", "unreadable", "--json")
        assert (refused.returncode, refused.stdout) == (1, "")
        assert f"saga: nonce {nonce}: Redis has no record" in refused.stderr
