"""Replicas that are paused, die, or are killed by what they are given."""

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adapters.embedded import EmbeddedAnvil, EmbeddedValkey
from saga.audit import Evidence, audit
from saga.messages import identify
from saga.model import ErrorClass, Saga, State
from tests.support.chain import Node
from tests.support.commands import command
from tests.support.fleet import Fleet, message
from tests.support.proxy import EVERY, Exchange, Response, forwarded, open_proxy

LEASE_MS = 2000
"""Of a fleet."""
TAKEOVER_MS = LEASE_MS + 2000
"""The longest time until somebody has what a dead replica had."""
MakeFleet = Callable[..., Fleet]
Seen = Callable[[dict[str, Saga], dict[str, int]], bool]


@pytest.fixture
def node() -> Iterator[Node]:
    """A chain of this test's own, with the contracts deployed and a block a second."""
    with EmbeddedAnvil("--gas-limit", "1000000000") as anvil:
        node = Node(anvil.url)
        node.request("evm_setIntervalMining", 1)
        yield node


@pytest.fixture
def fleet_of(node: Node, tmp_path: Path) -> Iterator[MakeFleet]:
    """Makes the fleet of the test; its processes and its Valkey end with it."""
    made: list[Fleet] = []
    with EmbeddedValkey() as valkey:

        def make(**settings: str) -> Fleet:
            made.append(Fleet(valkey.url, node.url, node.contracts, tmp_path, **settings))
            return made[-1]

        yield make
        for fleet in made:
            fleet.end()


def hold_blocks(node: Node) -> None:
    node.request("evm_setIntervalMining", 0)
    node.hold_blocks()


def go_on(node: Node) -> None:
    node.request("evm_setIntervalMining", 1)


def server_ms(fleet: Fleet) -> int:
    with fleet.redis as client:
        seconds, micros = client.time()
    return int(seconds) * 1000 + int(micros) // 1000


async def pair_of(fleet: Fleet, **changes: str) -> "list[subprocess.Popen[bytes]]":
    """Two replicas that have started."""
    replicas = []
    for _ in range(2):
        replicas.append(fleet.start_measured(**changes))
        await fleet.until_started()
    return replicas


def held_by(worker: str, sagas: dict[str, Saga]) -> list[Saga]:
    return [saga for saga in sagas.values() if saga.lease.owner.startswith(worker)]


def waiting(count: int) -> Seen:
    """So many sagas are validated: they wait for blocks, or for room in the lane."""

    def seen(sagas: dict[str, Saga], _depths: dict[str, int]) -> bool:
        return sum(saga.state is State.VALIDATED for saga in sagas.values()) == count

    return seen


def assert_all_done(evidence: Evidence, count: int) -> None:
    assert audit(evidence) == []
    assert {saga.state for saga in evidence.sagas.values()} == {State.ACKED}
    assert len(evidence.events) == count
    assert all(len(found) == 1 for found in evidence.contracts.values())


async def test_a_paused_replica_changes_nothing(node: Node, fleet_of: MakeFleet) -> None:
    """A replica that is stopped for three leases in the middle of deployments finds its sagas to be
    another's, drops them and says nothing: no model is left out, none has two of anything."""
    sent = [message(f"paused-{number}") for number in range(24)]
    fleet = fleet_of()
    paused, other = await pair_of(fleet)
    name = fleet.worker(paused)
    hold_blocks(node)
    fleet.send(sent)
    await fleet.until(
        lambda sagas, depths: (
            waiting(len(sent))(sagas, depths) and any(saga.deploy for saga in held_by(name, sagas))
        )
    )
    assert await fleet.metric("saga_fenced_total") == 0
    os.kill(paused.pid, signal.SIGSTOP)
    try:
        until = server_ms(fleet) + 3 * LEASE_MS
        await fleet.until(lambda sagas, _: not held_by(name, sagas) and server_ms(fleet) >= until)
        go_on(node)
    finally:
        os.kill(paused.pid, signal.SIGCONT)
    assert_all_done(await fleet.settled(sent), len(sent))
    await fleet.until_metric("saga_fenced_total", 1)
    fleet.kill(other)
    assert await fleet.metric("saga_fenced_total") > 0
    levels = {json.loads(line)["level"] for line in fleet.log(paused).splitlines()}
    assert levels <= {"info", "warning"}


async def test_waiting_sagas_leave_the_slots(node: Node, fleet_of: MakeFleet) -> None:
    """While forty sagas wait for blocks that do not come, on eight slots, an invalid message is
    dead-lettered, and what a dead replica had is taken over within its lease and two seconds."""
    sent = [message(f"slots-{number}") for number in range(40)]
    invalid = message("invalid", token_symbol=7)
    fleet = fleet_of(WORKER_POOL_SIZE="4")
    victim, other = await pair_of(fleet)
    name = fleet.worker(victim)
    hold_blocks(node)
    fleet.send(sent)
    await fleet.until(waiting(len(sent)))
    fleet.send([invalid])
    await fleet.until_counted(State.DEAD_LETTERED, 1, seconds=10)
    held: list[Saga] = []

    def has_some(sagas: dict[str, Saga], _depths: dict[str, int]) -> bool:
        held[:] = held_by(name, sagas)
        return len(held) > 4

    await fleet.until(has_some)
    fleet.kill(victim)
    killed_ms = server_ms(fleet)
    await fleet.until(lambda sagas, _: not held_by(name, sagas))
    taken = [
        entry
        for saga in held
        for entry in await fleet.history(saga)
        if entry.kind == "taken" and (entry.lost or "").startswith(name)
    ]
    assert len(taken) > 4
    assert {entry.worker for entry in taken} == {fleet.worker(other)}
    assert max(entry.at_ms for entry in taken) <= killed_ms + TAKEOVER_MS
    go_on(node)
    evidence = await fleet.settled([*sent, invalid])
    assert audit(evidence) == []
    states = [evidence.sagas[identify(raw).saga_id].state for raw in (*sent, invalid)]
    assert states == [State.ACKED] * len(sent) + [State.DEAD_LETTERED]


async def until_both_ask(fleet: Fleet) -> None:
    """Until two replicas wait for a message, and none is left to take."""
    deadline = time.monotonic() + 20
    with fleet.redis as client:
        while client.info("clients")["blocked_clients"] < 2:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.002)


async def test_replicas_share_the_work(node: Node, fleet_of: MakeFleet) -> None:
    """Who has waited longest for work gets it: of what comes while two replicas can take more, each
    ends at least a quarter."""
    sent = [message(f"fair-{number}") for number in range(40)]
    fleet = fleet_of()
    names = [fleet.worker(replica) for replica in await pair_of(fleet)]
    for raw in sent:
        await until_both_ask(fleet)
        fleet.send([raw])
    evidence = await fleet.settled(sent)
    assert_all_done(evidence, len(sent))
    ends = [(await fleet.history(saga))[-1] for saga in evidence.sagas.values()]
    ended = {name: sum(end.worker == name for end in ends) for name in names}
    print(ended)
    assert sum(ended.values()) == len(sent)
    assert min(ended.values()) >= len(sent) // 4


async def test_poison(node: Node, fleet_of: MakeFleet) -> None:
    """A message that kills each process that works on it is dead-lettered after MAX_CRASHES deaths,
    which the letter names; other work is done, and a resume runs it again."""
    poison, sound = message("poison"), [message(f"sound-{number}") for number in range(3)]
    async with open_proxy(node.url) as proxy:
        fleet = fleet_of(WEB3_PROVIDER_URL=proxy.url, LEASE_SECONDS="1", MAX_CRASHES="2")
        names: list[str] = []

        async def deadly(exchange: Exchange) -> Response:
            if b"poison".hex().encode() not in exchange.body:
                return await forwarded(exchange)
            (replica,) = fleet.alive
            names.append(fleet.worker(replica))
            fleet.kill(replica)
            fleet.start()
            return exchange.hang_up()

        fleet.start()
        await fleet.until_started()
        proxy.always(EVERY, deadly)
        fleet.send([poison])
        await fleet.until_counted(State.DEAD_LETTERED, 1, seconds=30)
        (raw,) = await fleet.dead_letters()
        letter = json.loads(raw)
        assert letter["error_class"] == ErrorClass.POISON
        assert letter["error"] == f"its worker died 2 times in VALIDATED: {', '.join(names)}"
        assert len(names) == 2
        fleet.send(sound)
        await fleet.until_counted(State.ACKED, len(sound))
        proxy.heal()
        resumed = await command(fleet.clean_environment(), "resume", "--all")
        assert resumed.status == 0, resumed
        assert_all_done(await fleet.settled([poison, *sound]), 4)
