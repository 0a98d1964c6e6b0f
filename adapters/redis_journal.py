"""The saga's record in Redis: each write one script, each answer checked."""

import itertools
from collections.abc import Sequence
from typing import cast

import msgspec
import structlog
from redis.asyncio import Redis

from adapters.redis_client import Scripts, Value, translated
from adapters.redis_codec import (
    dead_letter,
    decode,
    encode_struct,
    history_entry,
    pairs,
    utc_now,
)
from adapters.redis_keys import RedisKeys
from saga.errors import LeaseLostError, TamperedError
from saga.messages import Identity
from saga.model import Intent, Lease, Saga, State, Step
from saga.ports import Admission, Change, IntentAnswer

_REFUSED = {b"GONE", b"FENCED", b"CONFLICT"}
_STATES = {state.value.encode(): state for state in State}
_log = structlog.get_logger("saga")


class RedisJournal:
    """`saga.ports.Journal` on Redis >= 6.2 or Valkey.

    `worker` names this process in histories. A lease's owner is a nonce that no other lease of any
    process ever had: the worker's name and a count.
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
    ) -> None:
        self._client = client
        self._scripts = Scripts(client)
        self._keys = keys
        self._worker = worker
        self._lease_ms = int(lease_seconds * 1000)
        self._retention_ms = int(retention_seconds * 1000)
        self._max_in_flight = max_in_flight
        self._owners = itertools.count(1)

    def _owner(self) -> str:
        return f"{self._worker}.{next(self._owners)}"

    @translated
    async def admit(self, raw: bytes, identity: Identity) -> Admission:
        """One entry of the processing list becomes a leased saga, unless it belongs to one."""
        keys = self._keys
        fields: list[Value] = []
        for name in ("message_id", "model_id", "traceparent"):
            value = getattr(identity, name)
            if value is not None:
                fields += [name, value.encode("utf-8", "replace")]
        answer = await self._scripts.call(
            "admit",
            [
                keys.saga(identity.saga_id),
                keys.history(identity.saga_id),
                keys.due,
                keys.index(State.RECEIVED),
                keys.processing,
                keys.index(State.DEAD_LETTERED),
                keys.sagas_of(identity.model_id or ""),
            ],
            [
                identity.saga_id,
                raw,
                self._owner(),
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
                *fields,
            ],
        )
        outcome, detail = cast("tuple[bytes, list[bytes] | bytes]", answer)
        if outcome in (b"ADMITTED", b"REOPENED"):
            flat = cast("list[bytes]", detail)
            return Admission(next(iter(_readable([flat], resumed=outcome == b"REOPENED")), None))
        return Admission(None, duplicate=outcome == b"DUPLICATE")

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
            ],
        )
        return _readable(cast("list[list[bytes]]", answer), resumed=True)

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

    @translated
    async def claim_model(self, saga: Saga, model_id: str, content: str) -> Saga:
        """Claim the model; the answer is in the saga's `claim` and `claim_same`."""
        answer = await self._scripts.call(
            "claim_model",
            [*self._trio(saga), self._keys.claim(model_id)],
            [
                *self._guard(saga),
                self._lease_ms,
                self._keys.saga_prefix,
                content,
                model_id,
                self._entry(saga, kind="moved", note="another saga owns the model"),
            ],
        )
        outcome, *rest = cast("list[bytes]", answer)
        self._check(saga, outcome)
        return msgspec.structs.replace(
            saga,
            version=saga.version + 1,
            model_id=model_id,
            claim=rest[0].decode(),
            claim_same=rest[1] == b"1",
        )

    @translated
    async def intend(
        self, saga: Saga, intent: Intent, *, spent: int, known: int | None
    ) -> IntentAnswer:
        """Store a signed intent if its nonce is the lane's next and the model is this saga's."""
        assert saga.model_id is not None  # noqa: S101 - set by the move to VALIDATED
        answer = await self._scripts.call(
            "intend",
            [
                *self._trio(saga),
                self._keys.lane(intent.chain_id, intent.sender),
                self._keys.outstanding(intent.chain_id, intent.sender),
                self._keys.claim(saga.model_id),
            ],
            [
                *self._guard(saga),
                self._lease_ms,
                intent.step.value,
                encode_struct(intent),
                intent.nonce,
                spent,
                "" if known is None else known,
                self._max_in_flight,
                self._entry(
                    saga,
                    kind="intent",
                    note=f"nonce {intent.nonce}, token {intent.predicted}",
                    tx=intent.attempts[-1].hash,
                ),
                "1" if intent.step is Step.DEPLOY else "",
            ],
        )
        outcome, *rest = cast("list[bytes]", answer)
        match outcome:
            case b"NONCE":
                return IntentAnswer(next_nonce=int(rest[0]))
            case b"UNKNOWN":
                return IntentAnswer(nonce_unknown=True)
            case b"FULL":
                return IntentAnswer(lane_full=True)
            case b"CLAIMED":
                return IntentAnswer(claim_holder=rest[0].decode())
            case b"HAS":
                stored = msgspec.json.decode(rest[0], type=Intent)
                return IntentAnswer(saga=self._with(saga, stored, saga.version))
        self._check(saga, outcome)
        return IntentAnswer(saga=self._with(saga, intent, saga.version + 1))

    @staticmethod
    def _with(saga: Saga, intent: Intent, version: int) -> Saga:
        if intent.step is Step.DEPLOY:
            return msgspec.structs.replace(saga, deploy=intent, version=version)
        return msgspec.structs.replace(saga, register=intent, version=version)

    async def abandon(self, saga: Saga, step: Step, *, attempts: int, note: str) -> Saga:
        """Forget the step's intent; its nonce is spent."""
        await self._write(
            saga,
            saga.state,
            entry=self._entry(saga, kind="retry", note=note),
            removed=[step.value],
            fields={"attempts": attempts},
        )
        changes = {"deploy": None} if step is Step.DEPLOY else {"register": None}
        return msgspec.structs.replace(saga, version=saga.version + 1, attempts=attempts, **changes)

    async def postpone(self, saga: Saga, *, seconds: float, attempts: int, error: str) -> None:
        """Give the saga up until a time; any replica goes on then."""
        await self._write(
            saga,
            saga.state,
            entry=self._entry(saga, kind="retry", note=error),
            mode="timer",
            span_ms=int(seconds * 1000),
            fields={"attempts": attempts, "error": error},
        )

    async def move(self, saga: Saga, to: State, change: Change) -> Saga:
        """Move along an edge, with what the change brings, in one write."""
        after = change.saga
        fields: dict[str, Value] = {
            "attempts": 0 if to is not State.DEAD_LETTERED else after.attempts
        }
        letter = b""
        if change.dead_letter:
            failed_at = utc_now()
            letter = dead_letter(
                saga,
                error=after.error or "",
                error_class=after.error_class or "",
                failed_at=failed_at,
                queue=self._keys.inbound,
            )
            fields |= {"failed_in": saga.state.value, "failed_at": failed_at}
        for name in ("model_id", "error", "error_class"):
            value = getattr(after, name)
            if value is not None and value != getattr(saga, name):
                fields[name] = value
        for name in ("deploy", "register", "deployment", "registration"):
            value = getattr(after, name)
            if value is not None and value is not getattr(saga, name):
                fields[name] = encode_struct(value)
        end = to.terminal
        await self._write(
            saga,
            to,
            entry=self._entry(
                saga, kind="moved", state=to, was=saga.state, note=change.note, tx=change.tx
            ),
            mode="end" if end else "lease",
            span_ms=self._kept_ms(to) if end else self._lease_ms,
            fields=fields,
            removed=["error"] if saga.error and not after.error else [],
            event=change.event or b"",
            ack=change.ack,
            letter=letter,
        )
        return msgspec.structs.replace(
            after,
            state=to,
            version=saga.version + 1,
            attempts=0,
            resumed=False,
            lease=Lease(owner="", fence=saga.lease.fence) if end else saga.lease,
        )

    def _kept_ms(self, state: State) -> int:
        """Dead letters are kept until somebody deals with them."""
        return 0 if state is State.DEAD_LETTERED else self._retention_ms

    @translated
    async def _write(
        self,
        saga: Saga,
        to: State,
        *,
        entry: bytes,
        fields: dict[str, Value],
        mode: str = "lease",
        span_ms: int | None = None,
        removed: Sequence[str] = (),
        event: bytes = b"",
        ack: bool = False,
        letter: bytes = b"",
    ) -> None:
        answer = await self._scripts.call(
            "move",
            [
                *self._trio(saga),
                self._keys.index(saga.state),
                self._keys.index(to),
                self._keys.processing,
                self._keys.outbound,
                self._keys.dead_letters,
            ],
            [
                *self._guard(saga),
                saga.state.value,
                to.value,
                mode,
                self._lease_ms if span_ms is None else span_ms,
                entry,
                event,
                "1" if ack else "",
                letter,
                len(removed),
                *removed,
                *itertools.chain.from_iterable(fields.items()),
            ],
        )
        self._check(saga, cast("bytes", answer))

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
