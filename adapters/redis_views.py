"""Reading sagas, and putting them back to work by hand."""

import secrets
from collections.abc import AsyncIterator, Sequence
from typing import cast

import msgspec
import structlog
from redis.asyncio import Redis

from adapters.redis_client import Scripts, translated
from adapters.redis_codec import decode, decode_history, history_entry, own_letter
from adapters.redis_keys import RedisKeys
from saga.costs import Totals
from saga.errors import TamperedError
from saga.machine import Guard
from saga.model import HistoryEntry, Saga, State

OPERATION_KEPT_MS = 600_000
"""How long a retry of an operator's order is known; redis-py is done with its own in a minute."""
_PAGE = 500
_log = structlog.get_logger("saga")


class RedisViews:
    """What the operator's commands read. Nothing here scans the key space."""

    def __init__(self, client: "Redis", keys: RedisKeys) -> None:
        self.client = client
        self._keys = keys
        self._scripts = Scripts(client)

    async def find(self, id_or_model: str) -> Saga | None:
        """A saga by its id; else the one that owns the model; else the model's newest."""
        saga = await self.get(id_or_model)
        if saga is None and (holder := await self._get(self._keys.claim(id_or_model))) is not None:
            saga = await self.get(holder.decode())
        if saga is None and (siblings := await self.siblings(id_or_model)):
            saga = siblings[0]
        return saga

    @translated
    async def siblings(self, model_id: str) -> Sequence[Saga]:
        """The sagas whose message names the model, newest first, at most a hundred."""
        ids = await self.client.zrevrange(self._keys.sagas_of(model_id), 0, -1)
        hashes = await self._hashes(cast("list[bytes]", ids))
        return _readable(hashes)

    async def claimed(self, saga: Saga, model_id: str, content: str) -> Saga:
        """The saga as `claim_model.lua` would leave it, without claiming anything."""
        holder = None
        if (holder_id := await self._get(self._keys.claim(model_id))) is not None:
            holder = await self.get(holder_id.decode())
        if holder is not None:
            ended = holder.state in (State.DEAD_LETTERED, State.SKIPPED)
            sent = holder.deploy is not None or holder.deployment is not None
            if ended and (holder.discarded is not None or not sent):
                holder = None
        if holder is None or holder.id == saga.id:
            return msgspec.structs.replace(saga, claim=saga.id, claim_same=True)
        same = holder.content == content
        return msgspec.structs.replace(saga, claim=holder.id, claim_same=same)

    @translated
    async def _get(self, key: str) -> bytes | None:
        return cast("bytes | None", await self.client.get(key))

    @translated
    async def get(self, saga_id: str) -> Saga | None:
        fields = await self.client.hgetall(self._keys.saga(saga_id))
        return decode(cast("dict[bytes, bytes]", fields)) if fields else None

    @translated
    async def has_event(self, saga_id: str) -> bool:
        """Whether an event of the saga was published, and is kept: also when the saga is gone."""
        return bool(await self.client.exists(self._keys.event(saga_id)))

    async def several(self, saga_ids: Sequence[str]) -> dict[str, Saga]:
        """Those of some sagas that are there, by id. One round trip."""
        hashes = await self._hashes([saga_id.encode() for saga_id in saga_ids])
        return {saga.id: saga for saga in _readable(hashes)}

    @translated
    async def history(self, saga_id: str) -> Sequence[HistoryEntry]:
        raw = await self.client.lrange(self._keys.history(saga_id), 0, -1)
        return [decode_history(cast("bytes", line)) for line in raw]

    @translated
    async def due_ms(self, saga_id: str) -> int | None:
        """When the saga next needs somebody (server ms): its lease's end, or its retry time."""
        score = await self.client.zscore(self._keys.due, saga_id)
        return None if score is None else int(score)

    @translated
    async def counts(self) -> dict[State, int]:
        """How many sagas each state holds. One round trip."""
        pipe = self.client.pipeline(transaction=False)
        for state in State:
            pipe.zcard(self._keys.index(state))
        return dict(zip(State, await pipe.execute(), strict=True))

    @translated
    async def totals(self) -> Totals:
        """What all sagas together did and paid. A counter that is no number counts as 0."""
        found = await self.client.hgetall(self._keys.totals)
        known = {
            name.decode(): int(value)
            for name, value in cast("dict[bytes, bytes]", found).items()
            if name.decode("utf-8", "replace") in Totals.__struct_fields__ and value.isdigit()
        }
        return Totals(**known)

    @translated
    async def depths(self) -> dict[str, int]:
        """Lengths of the four lists, by role. One round trip."""
        roles = {
            "inbound": self._keys.inbound,
            "processing": self._keys.processing,
            "outbound": self._keys.outbound,
            "dead_letters": self._keys.dead_letters,
        }
        pipe = self.client.pipeline(transaction=False)
        for key in roles.values():
            pipe.llen(key)
        return dict(zip(roles, await pipe.execute(), strict=True))

    @translated
    async def events(self) -> list[bytes]:
        """The outbound list, newest first."""
        return cast("list[bytes]", await self.client.lrange(self._keys.outbound, 0, -1))

    @translated
    async def dead_letters(self) -> list[bytes]:
        """The DLQ's entries, newest first."""
        return cast("list[bytes]", await self.client.lrange(self._keys.dead_letters, 0, -1))

    async def sagas(self, states: Sequence[State]) -> AsyncIterator[Saga]:
        """The sagas in these states, each state's oldest first, read in pages."""
        for state in states:
            start = 0
            while ids := await self._page(state, start):
                for saga in _readable(await self._hashes(ids)):
                    yield saga
                start += _PAGE

    @translated
    async def _page(self, state: State, start: int) -> list[bytes]:
        return cast(
            "list[bytes]",
            await self.client.zrange(self._keys.index(state), start, start + _PAGE - 1),
        )

    @translated
    async def _hashes(self, ids: Sequence[bytes]) -> list[dict[bytes, bytes]]:
        pipe = self.client.pipeline(transaction=False)
        for saga_id in ids:
            pipe.hgetall(self._keys.saga(saga_id.decode()))
        return cast("list[dict[bytes, bytes]]", await pipe.execute())

    async def resume_target(self, saga: Saga, guard: Guard) -> State | None:
        """The state that a resume leads to; None when the saga is finished.

        It is the state that it failed in, unless the model was passed on to another saga before
        this one had sent anything: then it must ask for the model anew.
        """
        if saga.state is not State.DEAD_LETTERED:
            return None if saga.state.terminal else saga.state
        failed_in = saga.failed_in or State.RECEIVED
        if saga.model_id is not None and saga.deploy is None and saga.deployment is None:
            holder = await self._get(self._keys.claim(saga.model_id))
            if holder not in (None, saga.id.encode()):
                failed_in = State.RECEIVED
        return guard.resumed_state(failed_in)

    @translated
    async def resume(
        self,
        saga: Saga,
        to: State,
        *,
        actor: str,
        letter: bytes | None = None,
        failed_at: str | None = None,
    ) -> str:
        """Put a saga back to work in state `to`, its letter taken out of the DLQ: `letter`, where
        its bytes are known, else what it must be. `failed_at`: of the failure that is meant; the
        saga's where none is given.

        Returns OK, LEASED (a worker is on it), GONE or CONFLICT (it moved since it was read, or
        has failed again since the failure that is meant).
        """
        if saga.state is not State.DEAD_LETTERED:
            letter = b""
        elif letter is None:
            letter = self.letter_of(saga)
        answer = await self._scripts.call(
            "resume",
            [
                self._keys.saga(saga.id),
                self._keys.history(saga.id),
                self._keys.due,
                self._keys.index(State.DEAD_LETTERED),
                self._keys.index(to),
                self._keys.processing,
                self._keys.dead_letters,
                self._keys.operation(secrets.token_hex(8)),
            ],
            [
                saga.id,
                saga.version,
                saga.state.value,
                to.value,
                letter,
                (saga.failed_at if failed_at is None else failed_at) or "",
                OPERATION_KEPT_MS,
                history_entry(kind="resumed", worker=actor, state=to, was=saga.state),
            ],
        )
        return cast("bytes", answer).decode()

    def letter_of(self, saga: Saga) -> bytes:
        """The bytes that this dead-lettered saga has in the DLQ."""
        return own_letter(saga, self._keys.inbound)


def _readable(hashes: Sequence[dict[bytes, bytes]]) -> list[Saga]:
    """The sagas that are there and decode: one that does not must not hide the others."""
    sagas = []
    for fields in hashes:
        try:
            if fields:
                sagas.append(decode(fields))
        except TamperedError as error:
            _log.warning("saga.unreadable", error=str(error))
    return sagas
