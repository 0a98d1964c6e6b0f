"""Whose a saga is: admission, leases, and what every write of a holder carries."""

import itertools
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import cast

import msgspec
import structlog
from redis.asyncio import Redis

from adapters.redis_client import Scripts, Value, translated
from adapters.redis_codec import decode, decode_history, history_entry, own_letter, pairs
from adapters.redis_durable import Durability, Expected, RedisDurable
from adapters.redis_keys import RedisKeys
from adapters.redis_letters import RedisLetters
from saga.errors import LeaseLostError, TamperedError
from saga.failure_event import TokenDeployFailedMessage
from saga.messages import Identity
from saga.model import Saga, State
from saga.ports import Admission

_REFUSED = {b"GONE", b"FENCED", b"CONFLICT"}
_STATES = {state.value.encode(): state for state in State}
_log = structlog.get_logger("saga")


class RedisLeases:
    """The half of `saga.ports.Journal` that gives sagas to workers and takes them back.

    `worker` names this process in histories. A lease's owner is a nonce that no other lease of any
    process ever had: the worker's name and a count. `on_written` is told a saga before and after
    each write that may have cost something; `on_failed` what a dead-lettering tells the world, of
    which `network` is the name there.
    """

    def __init__(
        self,
        client: "Redis",
        keys: RedisKeys,
        *,
        worker: str,
        lease_seconds: float,
        retention_seconds: float,
        max_in_flight: int,
        deployments_per_hour: float = 0.0,
        durability: Durability = "none",
        event_retention_seconds: float = 0.0,
        network: str = "",
        on_written: Callable[[Saga, Saga], None] = lambda _before, _after: None,
        on_failed: Callable[[TokenDeployFailedMessage], None] = lambda _failure: None,
    ) -> None:
        self._client = client
        self._scripts = Scripts(client)
        self._keys = keys
        self._worker = worker
        self._lease_ms = int(lease_seconds * 1000)
        self._retention_ms = int(retention_seconds * 1000)
        self._event_ms = int(event_retention_seconds * 1000)
        self._max_in_flight = max_in_flight
        self._pause_ms = math.ceil(3_600_000 / deployments_per_hour) if deployments_per_hour else 0
        self._owners = itertools.count(1)
        self._durable = RedisDurable(client, keys, durability)
        self._letters = RedisLetters(client, keys, network=network)
        self._on_written = on_written
        self._on_failed = on_failed

    def _owner(self) -> str:
        return f"{self._worker}.{next(self._owners)}"

    @translated
    async def admit(self, raw: bytes, identity: Identity) -> Admission:
        """One entry of the processing list becomes a leased saga, unless it belongs to one."""
        fields: list[Value] = []
        for name in ("message_id", "model_id", "traceparent"):
            value = getattr(identity, name)
            if value is not None:
                fields += [name, value.encode("utf-8", "replace")]
        owner, letter, version = self._owner(), b"", b""
        while True:
            answer = await self._admitted(raw, identity, owner, [letter, version, *fields])
            outcome, detail = cast("tuple[bytes, list[bytes] | bytes]", answer)
            if outcome != b"DEAD":
                break
            # Only a saga that is dead, which is rare, costs this second round trip.
            flat = cast("list[bytes]", detail)
            letter = self._letter_of(flat)
            version = pairs(flat).get(b"version", b"")
        if outcome in (b"ADMITTED", b"REOPENED"):
            flat = cast("list[bytes]", detail)
            return Admission(next(iter(_readable([flat], resumed=outcome == b"REOPENED")), None))
        return Admission(None, duplicate=outcome == b"DUPLICATE")

    def _letter_of(self, flat: list[bytes]) -> bytes:
        """Nothing for a saga that does not decode."""
        found = _readable([flat], resumed=False)
        return own_letter(found[0], self._keys.inbound) if found else b""

    async def _admitted(
        self, raw: bytes, identity: Identity, owner: str, rest: Sequence[Value]
    ) -> object:
        keys = self._keys
        return await self._scripts.call(
            "admit",
            [
                keys.saga(identity.saga_id),
                keys.history(identity.saga_id),
                keys.due,
                keys.index(State.RECEIVED),
                keys.processing,
                keys.index(State.DEAD_LETTERED),
                keys.sagas_of(identity.model_id or ""),
                keys.claim(identity.model_id or ""),
                keys.dead_letters,
            ],
            [
                identity.saga_id,
                raw,
                owner,
                self._lease_ms,
                keys.index_prefix,
                history_entry(kind="admitted", worker=self._worker, state=State.RECEIVED, fence=1),
                history_entry(
                    kind="resumed",
                    worker=self._worker,
                    was=State.DEAD_LETTERED,
                    note="delivered again",
                )[:-1],
                "" if identity.model_id is None else "1",
                *rest,
            ],
        )

    @translated
    async def take_due(self, limit: int) -> Sequence[Saga]:
        """Lease up to `limit` sagas that need somebody."""
        answer = await self._scripts.call(
            "take_due",
            [self._keys.due],
            [
                self._owner(),
                self._lease_ms,
                limit,
                self._keys.saga_prefix,
                self._keys.HISTORY_SUFFIX,
                history_entry(
                    kind="taken", worker=self._worker, note="the lease of its worker ran out"
                )[:-1],
                f"{self._worker}.",
            ],
        )
        return _readable(cast("list[list[bytes]]", answer), resumed=True)

    @translated
    async def lost_leases(self, saga: Saga) -> Sequence[str]:
        """The leases of the saga that ran out, as far as its history goes back."""
        stored = cast("list[bytes]", await self._client.lrange(self._keys.history(saga.id), 0, -1))
        lost = []
        for raw in stored:
            with suppress(msgspec.MsgspecError):  # a line that somebody else wrote
                lost.append(decode_history(raw).lost)
        return [owner for owner in lost if owner is not None]

    @translated
    async def states(self, saga_ids: Sequence[str]) -> Sequence[State | None]:
        """The state of each saga, None where there is none that we know. One round trip."""
        pipe = self._client.pipeline(transaction=False)
        for saga_id in saga_ids:
            pipe.hget(self._keys.saga(saga_id), "state")
        answers = await pipe.execute() if saga_ids else []
        return [_STATES.get(state) for state in answers]

    @translated
    async def renew(self, sagas: Sequence[Saga]) -> set[str]:
        """Prolong the leases; returns the ids of those that are lost."""
        return await self._renew(sagas, self._lease_ms)

    @translated
    async def release(self, sagas: Sequence[Saga]) -> None:
        """Give the leases up: any replica may go on at once."""
        await self._renew(sagas, 0)

    async def settle(self, saga: Saga) -> None:
        """Wait until what is stored of the saga would outlive the server (REDIS_DURABILITY)."""
        key = self._keys.saga(saga.id)
        mine: list[Expected] = [(key, "owner", saga.lease.owner), (key, "version", saga.version)]
        if not await self._durable.settle(mine):
            raise LeaseLostError(f"saga {saga.id} at version {saga.version}: the write is lost")

    async def _renew(self, sagas: Sequence[Saga], lease_ms: int) -> set[str]:
        if not sagas:
            return set()
        triples: list[Value] = []
        for saga in sagas:
            triples += (saga.id, saga.lease.owner, saga.lease.fence)
        answer = await self._scripts.call(
            "renew",
            [self._keys.due],
            [lease_ms, self._keys.saga_prefix, *triples],
        )
        return {saga_id.decode() for saga_id in cast("list[bytes]", answer)}

    def _trio(self, saga: Saga) -> tuple[str, str, str]:
        return self._keys.saga(saga.id), self._keys.history(saga.id), self._keys.due

    @staticmethod
    def _guard(saga: Saga) -> tuple[Value, ...]:
        return saga.id, saga.lease.owner, saga.lease.fence, saga.version

    def _entry(self, saga: Saga, **fields: object) -> bytes:
        return history_entry(
            **{"worker": self._worker, "fence": saga.lease.fence, "state": saga.state} | fields
        )

    @staticmethod
    def _check(saga: Saga, answer: bytes) -> None:
        if answer in _REFUSED:
            raise LeaseLostError(f"saga {saga.id} at version {saga.version}: {answer.decode()}")


def _readable(hashes: Sequence[list[bytes]], *, resumed: bool) -> list[Saga]:
    """The sagas that decode. One that does not stays in `due` for somebody to mend: it must not
    keep the others from running."""
    sagas = []
    for flat in hashes:
        try:
            sagas.append(decode(pairs(flat), resumed=resumed))
        except TamperedError as error:
            _log.error("saga.unreadable", error=str(error))
    return sagas
