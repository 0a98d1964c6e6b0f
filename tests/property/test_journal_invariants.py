import asyncio
import json
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from adapters.embedded import EmbeddedValkey
from adapters.redis_client import connect
from adapters.redis_codec import decode
from saga.actions import Fail
from saga.change import change_of
from saga.costs import Cost, raised
from saga.errors import LeaseLostError
from saga.lane import Outstanding
from saga.messages import identify
from saga.model import AttemptKind, ErrorClass, Intent, Saga, State, Step
from saga.ports import Change
from tests.integration.lua.store import (
    CHAIN_ID,
    SENDER,
    Corner,
    Worker,
    advance,
    attempt,
    confirm,
    envelope,
    fail,
    intent,
    pair,
    skip,
)

T = TypeVar("T")
Run = Callable[[Coroutine[Any, Any, T]], T]

WORKERS = 3
MAX_IN_FLIGHT = 3
MESSAGES = 5
PUBLISHED = (State.PUBLISHED, State.ACKED)
BOUNDS = settings(
    max_examples=80,
    stateful_step_count=40,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
pick = st.integers(0, 99)
workers = st.integers(0, WORKERS - 1)
rarely = st.sampled_from([False, False, True])


def delivery(number: int, retry_count: int) -> bytes:
    """Five messages for two models; the retry count makes other bytes of the same saga."""
    return envelope(f"message-{number}", retry_count, f"model-{number % 2}")


def content(saga: Saga) -> str:
    """The last message contradicts the others of its model."""
    return "other" if saga.message_id == f"message-{MESSAGES - 1}" else "same"


class JournalMachine(RuleBasedStateMachine):
    """Several replicas on one Valkey that do everything a replica may do, in any order.

    `leases` is the truth by our own book-keeping: who may write to which saga. Whoever lost a
    lease goes on in `zombies` with what it remembers. `given` says whose each nonce is, `done`
    which are settled, `keeper` who looks after the lane.
    """

    def __init__(self, run: Run[Any], client: Any) -> None:
        super().__init__()
        self.run = run
        self.corner = Corner(client)
        self.workers = [
            self.corner.worker(f"w{number}", max_in_flight=MAX_IN_FLIGHT)
            for number in range(WORKERS)
        ]
        self.delivered: set[str] = set()
        self.leases: dict[str, tuple[Worker, Saga]] = {}
        self.zombies: list[tuple[Worker, Saga]] = []
        self.spent = 0
        self.next = 0
        self.given: dict[int, tuple[str, str]] = {}
        self.done: set[int] = set()
        self.keeper: tuple[str, int] | None = None
        self.last_keeper = ""
        self.fence = 0
        self.bytes = 10_000
        """The number of the bytes that an attempt signs next."""
        self.kept: dict[int, dict[bytes, bytes]] = {}
        """The attempts of each nonce, as stored when last looked at."""
        self.seen: dict[str, Saga] = {}

    # --- What may happen.

    @initialize(numbers=st.lists(st.integers(0, MESSAGES - 1), min_size=1, max_size=4))
    def begin(self, numbers: list[int]) -> None:
        """Some messages are in hand."""
        for worker, number in enumerate(numbers):
            self.deliver(number, 0)
            self.take(worker % WORKERS, crash=False)
            if worker == 0:
                self.work(0, 3)
                self.keep(0)

    @rule(number=st.integers(0, MESSAGES - 1), retry_count=st.integers(0, 1))
    def deliver(self, number: int, retry_count: int) -> None:
        """A producer pushes a message, for the first time or again."""
        raw = delivery(number, retry_count)
        self.delivered.add(identify(raw).saga_id)
        self.run(self.corner.client.lpush(self.corner.keys.inbound, raw))

    @rule(number=workers, crash=st.booleans())
    def take(self, number: int, *, crash: bool) -> None:
        """A replica takes a message, and may die before it admits it."""
        keys = self.corner.keys
        raw = self.run(self.corner.client.lmove(keys.inbound, keys.processing, "RIGHT", "LEFT"))
        if raw is not None and not crash:
            self.run(self._admit(self.workers[number], raw))

    @rule(number=workers, which=pick)
    def admit_again(self, number: int, which: int) -> None:
        """Any entry of the processing list is admitted, whatever became of it meanwhile."""
        entries = self.run(self.corner.listed(self.corner.keys.processing))
        if entries:
            self.run(self._admit(self.workers[number], entries[which % len(entries)]))

    @rule(number=workers)
    def sweep(self, number: int) -> None:
        """A replica admits the entries that have no active saga."""
        self.run(self._sweep(self.workers[number]))

    @precondition(lambda self: self.leases)
    @rule(which=pick, steps=st.integers(1, 5))
    def work(self, which: int, steps: int) -> None:
        """A holder does the next things that the engine would do."""
        worker, saga = self._lease(which)
        self.run(self._work(worker, saga, steps))

    @precondition(lambda self: self.leases)
    @rule(which=pick)
    def fails(self, which: int) -> None:
        """A holder dead-letters its saga."""
        worker, saga = self._lease(which)
        self.run(fail(worker, saga, error=f"failed in {saga.state}"))
        self._lose(saga.id, writes=1)

    @precondition(lambda self: self.leases)
    @rule(which=pick, seconds=st.sampled_from([0, 900]))
    def postpone(self, which: int, seconds: int) -> None:
        """A holder gives its saga up until a time."""
        worker, saga = self._lease(which)
        self.run(
            worker.postpone(saga, seconds=seconds, attempts=saga.attempts + 1, error="not now")
        )
        self._lose(saga.id, writes=1)

    @precondition(lambda self: self.leases)
    @rule(which=pick, step=st.sampled_from(Step))
    def abandon(self, which: int, step: Step) -> None:
        """A holder forgets an intent whose nonce is spent."""
        worker, saga = self._lease(which)
        state = State.VALIDATED if step is Step.DEPLOY else State.TOKEN_DEPLOYED
        if saga.state is state and saga.intent(step) is not None:
            cost = Cost(21_000, 15 * 10**8)
            after = self.run(worker.abandon(saga, [step], attempts=1, note="reverted", cost=cost))
            self.leases[saga.id] = (worker, after)
            self._settle(saga, after)

    @precondition(lambda self: self.leases)
    @rule(which=pick)
    def cancelled(self, which: int) -> None:
        """A holder finds that an operator has cancelled its step."""
        worker, saga = self._lease(which)
        step = Step.DEPLOY if saga.state is State.VALIDATED else Step.REGISTER
        if saga.state in (State.VALIDATED, State.TOKEN_DEPLOYED) and saga.intent(step) is not None:
            forget = tuple(Step) if step is Step.DEPLOY else (step,)
            change = change_of(saga, Fail(ErrorClass.CANCELLED, "cancelled", forget=forget))
            # What was sent behind the deployment is out still: it stays in the lane.
            self._settle(saga, self.run(worker.move(saga, State.DEAD_LETTERED, change)), step)
            for left in change.left:
                self.given[left.nonce] = ("", left.step.value)
            self._lose(saga.id, writes=1)

    @precondition(lambda self: self.leases)
    @rule(which=pick)
    def release(self, which: int) -> None:
        """A holder that shuts down gives its lease up."""
        worker, saga = self._lease(which)
        self.run(worker.release([saga]))
        self._lose(saga.id)

    @precondition(lambda self: self.leases)
    @rule(which=pick)
    def renew(self, which: int) -> None:
        """A holder's heartbeat finds its lease in order."""
        worker, saga = self._lease(which)
        assert self.run(worker.renew([saga])) == set()

    @precondition(lambda self: self.leases)
    @rule(which=pick)
    def lapse(self, which: int) -> None:
        """A lease runs out; its holder does not know."""
        _, saga = self._lease(which)
        self.run(self.corner.lapse(saga))

    @rule(number=workers, limit=st.integers(1, 5))
    def take_due(self, number: int, limit: int) -> None:
        """A replica takes over what is due."""
        self.run(self._take_due(self.workers[number], limit))

    @precondition(lambda self: self.zombies)
    @rule(which=pick, write=st.sampled_from(["work", "fail", "postpone", "renew"]))
    def zombie(self, which: int, write: str) -> None:
        """Who lost a lease is told so, and changes nothing."""
        worker, saga = self.zombies[which % len(self.zombies)]
        before = self.run(self.corner.contents())
        if write == "renew":
            # Where nobody has it, its own last write has given it up.
            somebody = self.run(self.corner.read(saga)).lease.owner
            assert self.run(worker.renew([saga])) == ({saga.id} if somebody else set())
        elif write == "work" and not saga.state.terminal:
            with pytest.raises(LeaseLostError):
                self.run(self._act(worker, saga))
        elif write == "postpone":
            with pytest.raises(LeaseLostError):
                self.run(worker.postpone(saga, seconds=0, attempts=9, error="zombie"))
        else:
            with pytest.raises(LeaseLostError):
                self.run(fail(worker, saga, error="zombie"))
        assert self.run(self.corner.contents()) == before

    @rule(number=workers)
    def repeat(self, number: int) -> None:
        """A write that was made and is sent again, however late, changes nothing."""
        worker = self.workers[number]
        if worker.scripts.last[0] in ("move", "claim_model", "intend") and worker.outcome == b"OK":
            before = self.run(self.corner.contents())
            self.run(worker.scripts.again())
            assert self.run(self.corner.contents()) == before

    @precondition(lambda self: self.seen)
    @rule(which=pick)
    def resume(self, which: int) -> None:
        """An operator resumes a saga, if it can be resumed."""
        saga = self.run(self.corner.read(self.seen[sorted(self.seen)[which % len(self.seen)]]))
        to = saga.failed_in if saga.state is State.DEAD_LETTERED else saga.state
        assert to is not None
        answer = self.run(self.corner.views.resume(saga, to, actor="operator"))
        if answer == "OK":
            self._lose(saga.id)
        else:
            assert answer == ("CONFLICT" if saga.state.terminal else "LEASED")

    @rule()
    def redeliver(self) -> None:
        """An operator puts the oldest dead letter's message back on the inbound list."""
        keys = self.corner.keys
        letter = self.run(self.corner.client.lindex(keys.dead_letters, -1))
        if letter is not None:
            raw = json.loads(letter)["original_message"].encode()
            self.run(self.corner.client.lpush(keys.inbound, raw))
            self.run(self.corner.client.lrem(keys.dead_letters, -1, letter))

    @rule(number=workers)
    def keep(self, number: int) -> None:
        """A replica asks for the lane, or prolongs its lease."""
        name = f"w{number}"
        standing = self.run(self.corner.lane().keep(name, lease_ms=900_000, hold=""))
        if self.keeper is None:
            self.fence += self.last_keeper != name
            self.keeper, self.last_keeper = (name, self.fence), name
        assert (standing.keeper, standing.fence) == self.keeper
        assert standing.kept == (self.keeper[0] == name)

    @precondition(lambda self: self.keeper)
    @rule(resigns=st.booleans())
    def unkept(self, *, resigns: bool) -> None:
        """The keeper gives the lane up, or its lease runs out."""
        assert self.keeper is not None
        if resigns:
            self.run(self.corner.lane().keep(self.keeper[0], lease_ms=0, hold=""))
        else:
            key = self.corner.keys.lane(CHAIN_ID, SENDER)
            self.run(self.corner.client.hset(key, "keeper_until", 1))
        self.keeper = None

    @precondition(lambda self: self.last_keeper)
    @rule(which=pick, who=st.sampled_from(["keeper"] * 3 + ["other", "earlier"]), late=rarely)
    def attempt(self, which: int, who: str, *, late: bool) -> None:
        """Somebody who keeps the lane, or did, or believes so, stores one more transaction."""
        nonces = [nonce for nonce in range(self.next + 1) if nonce not in self.done]
        nonce = nonces[which % len(nonces)]
        name = "w9" if who == "other" else self.last_keeper
        fence = self.fence - 1 if who == "earlier" else self.fence
        before = self.run(self.corner.contents())
        stored = self.run(self._attempt(nonce, name, fence, late=late))
        stale = nonce >= self.next or (late and nonce in self.kept)
        assert stored == (who == "keeper" and self.keeper is not None and not stale)
        if not stored:
            assert self.run(self.corner.contents()) == before

    @rule(further=st.integers(-2, 2))
    def raise_lane(self, further: int) -> None:
        """The lane is moved past nonces that somebody else has used."""
        least = max(self.next + further, 0)
        self.next = max(self.next, least)
        assert self.run(self.corner.lane().raise_to(least)) == self.next

    @rule()
    def mine(self) -> None:
        """The chain spends every nonce that was taken."""
        self.run(self._mine())

    # --- What holds after each of them.

    @invariant()
    def laws(self) -> None:
        keys = self.corner.keys
        found = self.run(self.corner.contents())
        sagas = {
            saga.id: saga
            for key, value in found.items()
            if key.startswith(keys.saga_prefix.encode()) and isinstance(value, dict)
            for saga in [decode(value)]
        }
        self._law_indexes(found, sagas)
        self._law_messages(found, sagas)
        self._law_events(found, sagas)
        self._law_chain(found, sagas)
        self._law_totals(found, sagas)
        for saga_id, before in self.seen.items():
            now = sagas[saga_id]
            assert (now.version, now.lease.fence) >= (before.version, before.lease.fence)
            assert now.version > before.version or now.state is before.state
        for saga_id, (_, held) in self.leases.items():
            assert (sagas[saga_id].lease, sagas[saga_id].version) == (held.lease, held.version)
        self.seen = sagas

    def _law_indexes(self, found: dict[bytes, Any], sagas: dict[str, Saga]) -> None:
        """Active ⇔ in `due`; in its own state's index and no other."""
        due = {member.decode() for member, _ in found.get(self.corner.keys.due.encode(), [])}
        assert due == {saga.id for saga in sagas.values() if not saga.state.terminal}
        indexed = [
            (member.decode(), state)
            for state in State
            for member, _ in found.get(self.corner.keys.index(state).encode(), [])
        ]
        assert sorted(indexed) == sorted((saga.id, saga.state) for saga in sagas.values())

    def _law_messages(self, found: dict[bytes, Any], sagas: dict[str, Saga]) -> None:
        """No message is lost: it waits, is in flight, is a dead letter, or its saga has ended."""
        keys = self.corner.keys
        processing = found.get(keys.processing.encode(), [])
        inbound = found.get(keys.inbound.encode(), [])
        safe = {identify(raw).saga_id for raw in [*processing, *inbound]}
        safe |= {
            json.loads(letter)["saga_id"] for letter in found.get(keys.dead_letters.encode(), [])
        }
        safe |= {saga.id for saga in sagas.values() if saga.state.terminal}
        assert self.delivered <= safe
        for saga in sagas.values():
            assert saga.state.terminal or saga.message in processing

    def _law_events(self, found: dict[bytes, Any], sagas: dict[str, Saga]) -> None:
        """One event for a saga that was published, none for any other."""
        events = Counter(raw.decode() for raw in found.get(self.corner.keys.outbound.encode(), []))
        assert events == {
            saga.id: 1
            for saga in sagas.values()
            if saga.state in PUBLISHED or saga.failed_in in PUBLISHED
        }

    def _law_chain(self, found: dict[bytes, Any], sagas: dict[str, Saga]) -> None:
        """No nonce twice, and no model with two deployments."""
        intents = [step for saga in sagas.values() for step in (saga.deploy, saga.register) if step]
        nonces = [step.nonce for step in intents]
        assert len(nonces) == len(set(nonces))
        lane = found.get(self.corner.keys.lane(CHAIN_ID, SENDER).encode(), {})
        assert int(lane.get(b"next", b"0")) == self.next
        self._law_records(found, intents)
        deploying = Counter(saga.model_id for saga in sagas.values() if saga.deploy)
        assert all(count == 1 for count in deploying.values())

    def _law_totals(self, found: dict[bytes, Any], sagas: dict[str, Saga]) -> None:
        """The totals are the sum of what the sagas did and paid, each counted once."""
        blank = {"deployment": None, "registration": None, "gas_used": 0, "fees_wei": 0}
        expected: Counter[str] = Counter()
        for saga in sagas.values():
            expected.update(
                msgspec.structs.asdict(raised(msgspec.structs.replace(saga, **blank), saga))
            )
        totals = found.get(self.corner.keys.totals.encode(), {})
        assert {name.decode(): int(count) for name, count in totals.items()} == {
            name: count for name, count in expected.items() if count
        }

    def _law_records(self, found: dict[bytes, Any], intents: list[Intent]) -> None:
        """Each nonce below the next has one record, or is settled, or is a hole that nobody took;
        a record keeps every attempt, and begins with the bytes of its owner."""
        prefix = self.corner.keys.nonce(CHAIN_ID, SENDER, 0)[:-1].encode()
        records = {
            int(key.removeprefix(prefix)): record
            for key, record in found.items()
            if key.startswith(prefix)
        }
        assert set(self.given) <= set(range(self.next))
        owned = {nonce for nonce, (owner, _) in self.given.items() if owner}
        assert owned - self.done == {n for n, r in records.items() if r[b"saga"]}
        for nonce, record in records.items():
            owner = (record[b"saga"].decode(), record[b"step"].decode())
            assert owner == self.given.get(nonce, ("", "fill"))
            attempts = {
                b"a%d" % number: record[b"a%d" % number] for number in range(int(record[b"n"]))
            }
            assert self.kept.get(nonce, {}).items() <= attempts.items()
            self.kept[nonce] = attempts
        for signed in intents:
            if signed.nonce not in self.done:
                assert records[signed.nonce][b"a0"] == msgspec.json.encode(signed.attempts[0])
                assert signed.attempts[0].raw

    def teardown(self) -> None:
        """Whatever happened: one replica that lives brings everything delivered to an end."""
        try:
            self.run(self._finish())
            self.laws()
            assert self.delivered == set(self.seen)
            assert all(saga.state.terminal for saga in self.seen.values())
            assert self.run(self.corner.listed(self.corner.keys.processing)) == []
        finally:
            self.run(self.corner.clear())

    async def _finish(self) -> None:
        corner, survivor = self.corner, self.corner.worker("survivor", max_in_flight=MAX_IN_FLIGHT)
        keys = corner.keys
        self.leases.clear()
        while await corner.client.lmove(keys.inbound, keys.processing, "RIGHT", "LEFT"):
            pass
        for _ in range(4 * MESSAGES):
            await self._sweep(survivor)
            for saga_id in await corner.client.zrange(keys.due, 0, -1):
                await corner.client.zadd(keys.due, {saga_id: 0})
            await self._take_due(survivor, 99)
            await self._mine()
            for worker, saga in list(self.leases.values()):
                await self._work(worker, saga, 99)

    # --- How.

    def _lease(self, which: int) -> tuple[Worker, Saga]:
        return self.leases[sorted(self.leases)[which % len(self.leases)]]

    def _grant(self, worker: Worker, saga: Saga) -> None:
        self._lose(saga.id)
        self.leases[saga.id] = (worker, saga)

    def _lose(self, saga_id: str, writes: int = 0) -> None:
        if saga_id in self.leases:
            worker, saga = self.leases.pop(saga_id)
            # What it wrote last it knows; the same write at the same version would be its retry.
            known = Saga(**{**_fields(saga), "version": saga.version + writes})
            self.zombies.append((worker, known))

    async def _admit(self, worker: Worker, raw: bytes) -> None:
        saga = (await self.corner.admit(worker, raw)).saga
        if saga is not None:
            self._grant(worker, saga)

    async def _sweep(self, worker: Worker) -> None:
        entries = (await self.corner.listed(self.corner.keys.processing))[::-1]
        states = await worker.states([identify(raw).saga_id for raw in entries])
        for raw, state in zip(entries, states, strict=True):
            if state is None or state.terminal:
                await self._admit(worker, raw)

    async def _take_due(self, worker: Worker, limit: int) -> None:
        for saga in await worker.take_due(limit):
            self._grant(worker, saga)

    async def _mine(self) -> None:
        self.spent = self.next

    async def _attempt(self, nonce: int, keeper: str, fence: int, *, late: bool) -> bool:
        """With the record as it is, or as it was one attempt ago."""
        (out,) = await self.corner.lane().read([nonce])
        attempts = out.attempts[:-1] if late else out.attempts
        seen: Outstanding = msgspec.structs.replace(out, attempts=attempts)
        self.bytes += 1
        kind = AttemptKind.CALL if out.attempts else AttemptKind.FILL
        return await self.corner.lane().add_attempt(
            seen, attempt(self.bytes, kind), note="", worker=keeper, keeper=keeper, fence=fence
        )

    def _settle(self, before: Saga, after: Saga, *steps: Step) -> None:
        """The nonces of intents that a write has forgotten, or has stored without their bytes."""
        for step in steps or Step:
            signed = before.intent(step)
            if signed is not None and after.intent(step) != signed:
                self.done.add(signed.nonce)
                self.kept.pop(signed.nonce, None)

    async def _work(self, worker: Worker, saga: Saga, steps: int) -> None:
        for _ in range(steps):
            after = await self._act(worker, saga)
            if after.state.terminal:
                self._lose(saga.id, writes=1)
                return
            if after == saga:
                return  # the lane is full
            saga = after
            self.leases[saga.id] = (worker, saga)

    async def _act(self, worker: Worker, saga: Saga) -> Saga:
        """The next thing that the engine would do."""
        match saga.state:
            case State.RECEIVED:
                return await self._judge(worker, saga)
            case State.VALIDATED if saga.deploy is None:
                return await self._intend(worker, saga, Step.DEPLOY)
            case State.TOKEN_DEPLOYED if saga.register is None:
                return await self._intend(worker, saga, Step.REGISTER)
            case State.VALIDATED | State.TOKEN_DEPLOYED:
                after = await confirm(worker, saga)
                self._settle(saga, after)
                return after
            case State.REGISTERED:
                event = saga.id.encode()
                return await worker.move(saga, State.PUBLISHED, Change(saga=saga, event=event))
            case _:
                return await worker.move(saga, State.ACKED, Change(saga=saga, ack=True))

    async def _judge(self, worker: Worker, saga: Saga) -> Saga:
        if saga.claim is None:
            return await worker.claim_model(saga, cast("str", saga.model_id), content(saga))
        if saga.claim == saga.id:
            return await advance(worker, saga, State.VALIDATED)
        return await (skip if saga.claim_same else fail)(worker, saga)

    async def _intend(self, worker: Worker, saga: Saga, step: Step) -> Saga:
        """Every other model's registration goes out right behind its deployment."""
        nonce = 0
        both = step is Step.DEPLOY and saga.register is None and saga.model_id == "model-0"
        while True:
            intents = pair(nonce) if both else (intent(nonce, step),)
            answer = await worker.propose(saga, *intents, spent=self.spent, known=0)
            if answer.claim_holder is not None:
                return await fail(worker, saga, why="conflict")
            if answer.lane_full:
                assert self.next + len(intents) - self.spent > MAX_IN_FLIGHT
                return saga
            if answer.saga is not None:
                for signed in intents:
                    assert signed.nonce == self.next
                    self.given[signed.nonce] = (saga.id, signed.step.value)
                    self.next += 1
                assert self.next - self.spent <= MAX_IN_FLIGHT
                return answer.saga
            nonce = cast("int", answer.next_nonce)


def _fields(saga: Saga) -> dict[str, Any]:
    return {name: getattr(saga, name) for name in saga.__struct_fields__}


def test_any_order(valkey: EmbeddedValkey) -> None:
    """Replicas, crashes, zombies, duplicates and operators in any order break no law."""
    with asyncio.Runner() as runner:
        client = runner.run(_connected(valkey.url))

        class Connected(JournalMachine):
            def __init__(self) -> None:
                super().__init__(runner.run, client)

        try:
            run_state_machine_as_test(Connected, settings=BOUNDS)
        finally:
            runner.run(client.aclose())


async def _connected(url: str) -> Any:
    return connect(url)
