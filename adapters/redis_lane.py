"""A lane in Redis: its keeper's lease, and the record of each nonce that is out.

Every attempt is stored here before it is sent. Written by `intend.lua`, `attempt.lua`,
`raise_lane.lua`, `keep.lua` and `retire.lua`; a record goes away with the saga's move past its
step.
"""

from collections.abc import Sequence
from typing import Literal, cast

import msgspec
import structlog
from redis.asyncio import Redis

from adapters.redis_client import Scripts, translated
from adapters.redis_codec import history_entry, pairs
from adapters.redis_durable import Durability, RedisDurable
from adapters.redis_keys import RedisKeys, lane_name
from saga.errors import HeldError
from saga.lane import Outstanding
from saga.model import Attempt, Intent, State

FILL_KEPT_MS = 7 * 86_400_000
"""A filled hole's record is of no use once it is mined; this is plenty."""


_log = structlog.get_logger("saga.lane")


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """How a lane stands. Times in milliseconds, by the server's clock."""

    kept: bool
    """Whether the asker is the keeper."""
    fence: int
    now_ms: int
    next: int | None
    """The nonce that is given next; None when none was ever taken."""
    hold: str
    keeper: str
    until_ms: int = 0
    """When the keeper's lease runs out, as far as that was asked for."""
    retired: str = ""
    """`draining:<address>` while the key is handed over to another, then `retired:<address>`: no
    new nonce is given."""
    retired_by: str = ""
    """Whose mark that is, as far as it was asked for: the name of who drains, `abandon` where the
    key is lost."""


class Handover(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a request to hand a lane over, and what stands."""

    done: bool
    stale: bool
    """Refused because a nonce was taken meanwhile."""
    mark: str
    """As `Standing.retired`."""
    next: int | None


class Glance(msgspec.Struct, frozen=True, kw_only=True):
    """The small part of a nonce's record: when to look at it more closely."""

    attempts: int
    at_ms: int


class RedisLane:
    """One lane: the nonces of one signer on one chain."""

    def __init__(
        self,
        client: "Redis",
        keys: RedisKeys,
        *,
        chain_id: int,
        sender: str,
        durability: Durability = "none",
    ) -> None:
        self._client = client
        self._scripts = Scripts(client)
        self._keys = keys
        self.chain_id = chain_id
        self.sender = sender
        self._lane = keys.lane(chain_id, sender)
        self._durable = RedisDurable(client, keys, durability)

    def _slot(self, nonce: int) -> str:
        return self._keys.nonce(self.chain_id, self.sender, nonce)

    @translated
    async def keep(self, owner: str, *, lease_ms: int, hold: str) -> Standing:
        """Become or stay the lane's keeper if nobody else is; one round trip."""
        name = lane_name(self.chain_id, self.sender)
        answer = await self._scripts.call(
            "keep", [self._lane, self._keys.lanes], [owner, lease_ms, hold, name]
        )
        outcome, fence, now, following, held, keeper, retired = cast("list[bytes]", answer)
        return Standing(
            kept=outcome == b"KEPT",
            fence=int(fence),
            now_ms=int(now),
            next=int(following) if following else None,
            hold=held.decode(),
            keeper=keeper.decode(),
            retired=retired.decode(),
        )

    @translated
    async def standing(self) -> Standing:
        """The same without asking for anything."""
        names = ["keeper", "keeper_fence", "keeper_until", "next", "hold", "retired", "retired_by"]
        held = await self._client.hmget(self._lane, names)
        keeper, fence, until, following, hold, retired, by = cast("list[bytes | None]", held)
        now = await self._client.time()
        now_ms = now[0] * 1000 + now[1] // 1000
        alive = until is not None and int(until) > now_ms
        return Standing(
            kept=False,
            fence=int(fence or 0),
            now_ms=now_ms,
            next=None if following is None else int(following),
            hold=(hold or b"").decode() if alive else "",
            keeper=(keeper or b"").decode() if alive else "",
            until_ms=int(until or 0),
            retired=(retired or b"").decode(),
            retired_by=(by or b"").decode(),
        )

    @translated
    async def retire(
        self,
        what: Literal["drain", "finish", "abandon", "lift"],
        to: str = "",
        *,
        seen: int | None = None,
        by: str = "",
    ) -> Handover:
        """Mark the lane as handed over to an address, or take the mark away; see `retire.lua`.

        `seen`: the next nonce that everything was proven for. `by`: who drains, finishes and lifts
        that mark alone. `lift` without an address lifts any mark.
        """
        heir = self._keys.lane(self.chain_id, to) if to else self._lane
        answer = await self._scripts.call(
            "retire", [self._lane, heir], [what, to, "" if seen is None else seen, by]
        )
        outcome, mark, following = cast("list[bytes]", answer)
        return Handover(
            done=outcome == b"OK",
            stale=outcome == b"STALE",
            mark=mark.decode(),
            next=int(following) if following else None,
        )

    @translated
    async def raise_to(self, nonce: int) -> int:
        """Never give a nonce below this one; returns the next."""
        answer = await self._scripts.call("raise_lane", [self._lane], [nonce])
        return int(cast("bytes", answer))

    @translated
    async def glances(self, nonces: Sequence[int]) -> list[Glance | None]:
        """The age of each nonce's record, None where there is none. One round trip."""
        pipe = self._client.pipeline(transaction=False)
        for nonce in nonces:
            pipe.hmget(self._slot(nonce), ["n", "at_ms"])
        answers = await pipe.execute() if nonces else []
        return [
            None if n is None else Glance(attempts=int(n), at_ms=int(at_ms or 0))
            for n, at_ms in answers
        ]

    @translated
    async def read(self, nonces: Sequence[int]) -> list[Outstanding]:
        """The records of some nonces; a hole where there is none. One round trip."""
        pipe = self._client.pipeline(transaction=False)
        for nonce in nonces:
            pipe.hgetall(self._slot(nonce))
        answers = await pipe.execute() if nonces else []
        return [_outstanding(nonce, fields) for nonce, fields in zip(nonces, answers, strict=True)]

    async def attempts_of(self, intent: Intent) -> Sequence[Attempt]:
        """As `signed_for`: of any lane, for the saga may have begun with another key."""
        return await signed_for(self._client, self._keys, intent)

    @translated
    async def states(self, saga_ids: Sequence[str]) -> list[State | None]:
        """The state of each saga, None where there is none. One round trip."""
        pipe = self._client.pipeline(transaction=False)
        for saga_id in saga_ids:
            pipe.hget(self._keys.saga(saga_id), "state")
        answers = await pipe.execute() if saga_ids else []
        return [_state(state) for state in answers]

    @translated
    async def add_attempt(
        self,
        out: Outstanding,
        attempt: Attempt,
        *,
        note: str,
        worker: str,
        keeper: str = "",
        fence: int = 0,
        state: State | None = None,
    ) -> bool:
        """Store one more transaction for a nonce; False when the record has changed meanwhile.

        `keeper` and `fence` are those of the lane's lease; an operator's command has none, and is
        held to what it has read alone.
        """
        entry = b""
        if out.saga_id and state is not None:
            entry = history_entry(
                kind="attempt", worker=worker, state=state, fence=fence, note=note, tx=attempt.hash
            )
        answer = await self._scripts.call(
            "attempt",
            [
                self._lane,
                self._slot(out.nonce),
                self._keys.history(out.saga_id) if out.saga_id else self._lane,
            ],
            [
                keeper,
                fence,
                len(out.attempts),
                attempt.hash,
                msgspec.json.encode(attempt),
                out.nonce,
                entry,
                FILL_KEPT_MS,
            ],
        )
        return cast("bytes", answer) in (b"OK", b"DUPLICATE")

    async def unsettled(self, nonce: int, attempts: int) -> str:
        """Why a nonce's last attempt must not be sent yet; empty once its record, with so many,
        would outlive the server. Waits for that (REDIS_DURABILITY)."""
        try:
            same = await self._durable.settle([(self._slot(nonce), "n", attempts)])
        except HeldError as error:
            return str(error)
        return "" if same else f"the record of nonce {nonce} is not what was stored"


@translated
async def signed_for(client: "Redis", keys: RedisKeys, intent: Intent) -> Sequence[Attempt]:
    """Every transaction that was ever signed for an intent, the stored first one at least."""
    slot = keys.nonce(intent.chain_id, intent.sender, intent.nonce)
    fields = cast("dict[bytes, bytes]", await client.hgetall(slot))
    found = _outstanding(intent.nonce, fields)
    if not found.attempts or found.attempts[0].hash != intent.attempts[0].hash:
        return intent.attempts
    return found.attempts


def _state(stored: bytes | None) -> State | None:
    """A state that this release does not know is somebody's at work: its nonce is left to it."""
    if stored is None:
        return None
    text = stored.decode("utf-8", "replace")
    return State(text) if text in State.__members__ else State.RECEIVED


def _outstanding(nonce: int, flat: dict[bytes, bytes] | list[bytes]) -> Outstanding:
    """A record, or a hole where there is none, or none that a script of ours wrote: storing an
    attempt for that is refused, since the count does not fit."""
    fields = flat if isinstance(flat, dict) else pairs(flat)
    try:
        return _decoded(nonce, fields)
    except (ValueError, LookupError, msgspec.MsgspecError) as error:
        _log.error("lane.unreadable", nonce=nonce, error=f"{type(error).__name__}: {error}")
        return Outstanding(nonce=nonce)


def _decoded(nonce: int, fields: dict[bytes, bytes]) -> Outstanding:
    if b"n" not in fields:
        return Outstanding(nonce=nonce)
    return Outstanding(
        nonce=nonce,
        saga_id=fields[b"saga"].decode(),
        step=fields[b"step"].decode(),
        cost_gas=int(fields[b"cost_gas"]),
        attempts=tuple(
            msgspec.json.decode(fields[b"a%d" % number], type=Attempt)
            for number in range(int(fields[b"n"]))
        ),
        at_ms=int(fields[b"at_ms"]),
    )


def why_retired(sender: str, mark: str) -> str:
    """Why nothing new is sent from a lane, by the mark that `saga keys rotate` made on it."""
    how, _, to = mark.partition(":")
    if how == "draining":
        return f"key {sender} is being drained: `saga keys rotate` hands over to {to}"
    return f"key {sender} is retired: start with the key of {to}"
