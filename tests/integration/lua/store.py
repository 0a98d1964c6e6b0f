"""What the tests of the store share: a corner of Valkey of a test's own, and sagas to put in it."""

import itertools
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, cast

import msgspec
from redis.asyncio import Redis

from adapters.redis_client import Scripts, Value, connect
from adapters.redis_journal import RedisJournal
from adapters.redis_keys import RedisKeys
from adapters.redis_lane import RedisLane
from adapters.redis_views import RedisViews
from saga.costs import charged, receipt_cost
from saga.messages import identify
from saga.model import (
    Attempt,
    AttemptKind,
    Deployment,
    Intent,
    Lease,
    Receipt,
    Registration,
    Saga,
    State,
    Step,
)
from saga.ports import Admission, Change, IntentAnswer

SENDER = "0x" + "Ab" * 20
CHAIN_ID = 31337
COST_GAS = 2_000_000
EVENT = b'{"event_type":"token_deployed"}'
PATH = (
    State.RECEIVED,
    State.VALIDATED,
    State.TOKEN_DEPLOYED,
    State.REGISTERED,
    State.PUBLISHED,
    State.ACKED,
)
_corners = itertools.count(1)


def message(model: str | None = "model_1", **fields: object) -> bytes:
    """A message as `identify` reads it; other fields, other saga."""
    named = {} if model is None else {"model_id": model}
    return json.dumps(named | fields).encode()


def envelope(message_id: str, retry_count: int, model: str = "model_1") -> bytes:
    """The same saga whatever the retry count, in other bytes."""
    outer = {"message_id": message_id, "message_type": "model_ready_to_deploy"}
    return json.dumps(outer | {"retry_count": retry_count, "payload": {"model_id": model}}).encode()


def attempt(number: int, kind: AttemptKind = AttemptKind.CALL) -> Attempt:
    """The same number, the same bytes."""
    return Attempt(
        hash=f"0x{number:064x}",
        raw="0x02f8",
        max_fee=3_000_000_000,
        max_priority_fee=1,
        gas=21_000,
        kind=kind,
    )


def intent(nonce: int, step: Step = Step.DEPLOY, *, sender: str = SENDER) -> Intent:
    return Intent(
        step=step,
        sender=sender,
        chain_id=CHAIN_ID,
        nonce=nonce,
        to="0x" + "11" * 20,
        predicted="0x" + "22" * 20,
        attempts=(attempt(nonce),),
    )


def pair(nonce: int) -> tuple[Intent, Intent]:
    """A deployment with its registration right behind it."""
    return intent(nonce), intent(nonce + 1, Step.REGISTER)


RECEIPT = Receipt(
    tx_hash="0x" + "33" * 32,
    block_number=7,
    block_hash="0x" + "44" * 32,
    block_time=1_700_000_000,
    sender=SENDER,
    gas_used=1_000_000,
    gas_price=10**9,
)
DEPLOYMENT = Deployment(token="0x" + "22" * 20, receipt=RECEIPT)
REGISTRATION = Registration(receipt=RECEIPT)


class Recorder(Scripts):
    """Scripts that remember their last call, so that a test can send it again."""

    def __init__(self, client: "Redis") -> None:
        super().__init__(client)
        self.last: tuple[str, list[str], list[Value]] = ("", [], [])
        self.answer: object = None

    async def call(self, name: str, keys: Iterable[str], args: Iterable[Value]) -> object:
        self.last = (name, list(keys), list(args))
        self.answer = await super().call(*self.last)
        return self.answer

    async def again(self) -> object:
        """What redis-py does when the reply was lost."""
        return await super().call(*self.last)


class Worker(RedisJournal):
    """A journal whose script answers can be seen and whose calls can be repeated."""

    def __init__(self, client: "Redis", keys: RedisKeys, worker: str, **options: Any) -> None:
        defaults: dict[str, Any] = {
            "lease_seconds": 60.0,
            "retention_seconds": 0.0,
            "max_in_flight": 0,
            "network": "localhost",
        }
        super().__init__(client, keys, worker=worker, **(defaults | options))
        self.scripts = Recorder(client)
        self._scripts = self.scripts

    async def propose(
        self, saga: Saga, *intents: Intent, spent: int, known: int | None
    ) -> IntentAnswer:
        """Intents for a model whose transactions burn COST_GAS together."""
        return await self.intend(saga, intents, cost_gas=COST_GAS, spent=spent, known=known)

    @property
    def outcome(self) -> bytes:
        """The word that the last script answered."""
        answer = self.scripts.answer
        return cast("bytes", answer[0] if isinstance(answer, list) else answer)


class Lane(RedisLane):
    """A lane whose script answers can be seen and whose calls can be repeated."""

    def __init__(self, client: "Redis", keys: RedisKeys, *, sender: str = SENDER) -> None:
        super().__init__(client, keys, chain_id=CHAIN_ID, sender=sender)
        self.scripts = Recorder(client)
        self._scripts = self.scripts

    @property
    def outcome(self) -> bytes:
        """The word that the last script answered."""
        answer = self.scripts.answer
        return cast("bytes", answer[0] if isinstance(answer, list) else answer)


class Corner:
    """Keys of one test's own in a running Valkey, and short ways to fill and read them."""

    def __init__(self, client: "Redis") -> None:
        self.client: Any = client  # its stubs promise str or bytes, ours gives bytes
        self.tag = f"corner-{os.getpid()}-{next(_corners)}"
        self.keys = RedisKeys(
            inbound=f"{self.tag}:in",
            processing=f"{self.tag}:in:processing",
            outbound=f"{self.tag}:out",
            dead_letters=f"{self.tag}:in:dlq",
            failures=f"{self.tag}:failed",
            prefix=f"{self.tag}:saga:",
        )
        self.views = RedisViews(client, self.keys)

    def worker(self, name: str = "w1", **options: Any) -> Worker:
        return Worker(self.client, self.keys, name, **options)

    def lane(self, sender: str = SENDER) -> Lane:
        return Lane(self.client, self.keys, sender=sender)

    async def deliver(self, *raws: bytes) -> None:
        """Messages on the processing list, as a take leaves them."""
        await self.client.lpush(self.keys.processing, *raws)

    async def admit(self, worker: Worker, raw: bytes) -> Admission:
        return await worker.admit(raw, identify(raw))

    async def begin(self, worker: Worker, raw: bytes | None = None) -> Saga:
        """A message delivered and admitted."""
        raw = message() if raw is None else raw
        await self.deliver(raw)
        saga = (await self.admit(worker, raw)).saga
        assert saga is not None
        return saga

    async def begin_in(self, worker: Worker, state: State, raw: bytes | None = None) -> Saga:
        """A saga brought to a state over the edges that lead there."""
        saga = await self.begin(worker, raw)
        if state is State.DEAD_LETTERED:
            return await fail(worker, saga)
        if state is State.SKIPPED:
            return await skip(worker, saga)
        return await walk(worker, saga, state)

    async def lapse(self, saga: Saga) -> None:
        """The lease, or the retry time, is over."""
        await self.client.zadd(self.keys.due, {saga.id: 0}, xx=True)

    async def read(self, saga: Saga) -> Saga:
        """The saga as stored."""
        stored = await self.views.get(saga.id)
        assert stored is not None
        return stored

    async def stored_lane(self) -> dict[bytes, bytes]:
        """The lane's hash."""
        return await self.hash(self.keys.lane(CHAIN_ID, SENDER))

    async def records(self) -> dict[int, dict[bytes, bytes]]:
        """The hash of each nonce that has one."""
        prefix = self.keys.nonce(CHAIN_ID, SENDER, 0)[:-1]
        keys = await self.client.keys(f"{prefix}*")
        nonces = sorted(int(key.decode().removeprefix(prefix)) for key in keys)
        return {nonce: await self.hash(f"{prefix}{nonce}") for nonce in nonces}

    async def hash(self, key: str) -> dict[bytes, bytes]:
        return cast("dict[bytes, bytes]", await self.client.hgetall(key))

    async def listed(self, key: str) -> list[bytes]:
        return cast("list[bytes]", await self.client.lrange(key, 0, -1))

    async def indexes(self, saga: Saga) -> list[State]:
        """The states whose index holds the saga."""
        return [
            state
            for state in State
            if await self.client.zscore(self.keys.index(state), saga.id) is not None
        ]

    async def now_ms(self) -> int:
        seconds, micros = await self.client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    async def contents(self) -> dict[bytes, Any]:
        """Everything below this corner's tag: equal before and after what changes nothing."""
        keys = sorted(await self.client.keys(f"{self.tag}:*"))
        kinds = self.client.pipeline(transaction=False)
        for key in keys:
            kinds.type(key)
        values = self.client.pipeline(transaction=False)
        for key, kind in zip(keys, await kinds.execute(), strict=True):
            match kind:
                case b"hash":
                    values.hgetall(key)
                case b"list":
                    values.lrange(key, 0, -1)
                case b"set":
                    values.smembers(key)
                case b"zset":
                    values.zrange(key, 0, -1, withscores=True)
                case _:
                    values.get(key)
        return dict(zip(keys, await values.execute(), strict=True))

    async def clear(self) -> None:
        keys = await self.client.keys(f"{self.tag}:*")
        if keys:
            await self.client.unlink(*keys)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Corner]:
    """A corner of the Valkey at `url`, empty again afterwards."""
    client = connect(url)
    corner = Corner(client)
    try:
        yield corner
        await corner.clear()
    finally:
        await client.aclose()


async def advance(worker: Worker, saga: Saga, to: State, **changes: Any) -> Saga:
    """One move that writes nothing else than `changes`."""
    return await worker.move(saga, to, Change(saga=msgspec.structs.replace(saga, **changes)))


async def confirm(worker: Worker, saga: Saga) -> Saga:
    """The move of a step whose transaction is mined: its result is stored, its bytes are not."""
    changes: dict[str, Any]
    if saga.state is State.VALIDATED:
        deploy = _without_bytes(saga.deploy)
        changes = {"deployment": DEPLOYMENT, "deploy": deploy}
        return await advance(worker, saga, State.TOKEN_DEPLOYED, **changes, **paid(saga))
    changes = {"registration": REGISTRATION, "register": _without_bytes(saga.register)}
    return await advance(worker, saga, State.REGISTERED, **changes, **paid(saga))


def paid(saga: Saga, receipt: Receipt = RECEIPT) -> dict[str, Any]:
    """The fields of a saga that has paid for one transaction more."""
    after = charged(saga, receipt_cost(receipt))
    return {"gas_used": after.gas_used, "fees_wei": after.fees_wei}


def _without_bytes(signed: Intent | None) -> Intent | None:
    if signed is None:
        return None
    attempts = tuple(msgspec.structs.replace(each, raw="") for each in signed.attempts)
    return msgspec.structs.replace(signed, attempts=attempts)


async def walk(worker: Worker, saga: Saga, to: State) -> Saga:
    """Along the happy path up to a state, with the effects that the engine has on the way."""
    for state in PATH[PATH.index(saga.state) + 1 : PATH.index(to) + 1]:
        changes: dict[State, dict[str, object]] = {
            State.VALIDATED: {"model_id": saga.model_id or "model_1"},
            State.TOKEN_DEPLOYED: {"deployment": DEPLOYMENT, **paid(saga)},
            State.REGISTERED: {"registration": REGISTRATION, **paid(saga)},
        }
        change = Change(
            saga=msgspec.structs.replace(saga, **changes.get(state, {})),
            event=EVENT if state is State.PUBLISHED else None,
            ack=state is State.ACKED,
        )
        saga = await worker.move(saga, state, change)
    return saga


async def fail(worker: Worker, saga: Saga, error: str = "no", why: str = "reverted") -> Saga:
    """Dead-letter a saga where it is."""
    after = msgspec.structs.replace(saga, error=error, error_class=why)
    change = Change(saga=after, note=error, ack=True, dead_letter=True)
    return await worker.move(saga, State.DEAD_LETTERED, change)


async def skip(worker: Worker, saga: Saga) -> Saga:
    after = msgspec.structs.replace(saga, error="not above", error_class="criteria")
    return await worker.move(saga, State.SKIPPED, Change(saga=after, note="not above", ack=True))


async def _taken_over(corner: Corner, saga: Saga) -> None:
    await corner.lapse(saga)
    assert [taken.id for taken in await corner.worker("thief").take_due(1)] == [saga.id]


async def _released(corner: Corner, saga: Saga) -> None:
    await corner.worker().release([saga])


async def _fenced(corner: Corner, saga: Saga) -> None:
    await corner.client.hincrby(corner.keys.saga(saga.id), "fence", 1)


async def _written(corner: Corner, saga: Saga) -> None:
    await corner.client.hincrby(corner.keys.saga(saga.id), "version", 1)


async def _flushed(corner: Corner, _saga: Saga) -> None:
    await corner.client.flushall()


LOSSES: dict[str, tuple[Callable[[Corner, Saga], Awaitable[None]], bytes]] = {
    "another owner": (_taken_over, b"FENCED"),
    "given up": (_released, b"FENCED"),
    "a higher fence": (_fenced, b"FENCED"),
    "another version": (_written, b"CONFLICT"),
    "flushed": (_flushed, b"GONE"),
}
"""Ways in which a worker comes to hold a saga no longer, with what a script then answers."""


def nobody(saga: Saga) -> Saga:
    """The saga as it looks to somebody who never leased it."""
    return msgspec.structs.replace(saga, lease=Lease(owner="nobody", fence=saga.lease.fence))
