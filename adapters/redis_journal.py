"""The saga's record in Redis: each write one script, each answer checked."""

import itertools
from collections.abc import Sequence
from typing import cast

import msgspec

from adapters.redis_client import Value, translated
from adapters.redis_codec import encode_struct, spending
from adapters.redis_lane import FILL_KEPT_MS, why_retired
from adapters.redis_leases import RedisLeases
from adapters.redis_letters import Letter
from saga.costs import Cost, charged, leaving, raised
from saga.model import Intent, Lease, Saga, State, Step
from saga.ports import Change, IntentAnswer


class RedisJournal(RedisLeases):
    """`saga.ports.Journal` on Redis >= 6.2 or Valkey."""

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
    async def next_nonce(self, chain_id: int, sender: str) -> int | None:
        """What a lane gives next; None where none was ever taken."""
        found = await self._client.hget(self._keys.lane(chain_id, sender), "next")
        return None if found is None else int(found)

    @translated
    async def intend(
        self,
        saga: Saga,
        intents: Sequence[Intent],
        *,
        cost_gas: int,
        spent: int,
        known: int | None,
        sure: int | None = None,
    ) -> IntentAnswer:
        """Store signed intents if their nonces are the lane's next and the model is this saga's."""
        assert saga.model_id is not None  # noqa: S101 - set by the move to VALIDATED
        first = intents[0]
        lane = (first.chain_id, first.sender)
        stored: list[Value] = []
        for intent in intents:
            attempt = intent.attempts[-1]
            note = f"nonce {intent.nonce}, token {intent.predicted}"
            stored += [
                intent.step.value,
                encode_struct(intent),
                msgspec.json.encode(attempt),
                self._entry(saga, kind="intent", note=note, tx=attempt.hash),
            ]
        answer = await self._scripts.call(
            "intend",
            [
                *self._trio(saga),
                self._keys.lane(*lane),
                self._keys.claim(saga.model_id),
                self._keys.throttle,
                self._keys.turns,
                *(self._keys.nonce(*lane, intent.nonce) for intent in intents),
            ],
            [
                *self._guard(saga),
                self._lease_ms,
                first.nonce,
                spent,
                "" if known is None else known,
                self._max_in_flight,
                "1" if first.step is Step.DEPLOY else "",
                cost_gas,
                spent if sure is None else sure,
                self._pause_ms if first.step is Step.DEPLOY else 0,
                *stored,
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
            case b"THROTTLED":
                return IntentAnswer(throttled_seconds=int(rest[0]) / 1000)
            case b"RETIRED":
                return IntentAnswer(retired=why_retired(first.sender, rest[0].decode()))
            case b"CLAIMED":
                return IntentAnswer(claim_holder=rest[0].decode())
            case b"HAS":
                stored_intent = msgspec.json.decode(rest[0], type=Intent)
                return IntentAnswer(saga=_with(saga, [stored_intent], saga.version))
        self._check(saga, outcome)
        return IntentAnswer(saga=_with(saga, intents, saga.version + 1))

    async def abandon(
        self,
        saga: Saga,
        steps: Sequence[Step],
        *,
        attempts: int,
        note: str,
        left: Sequence[Intent] = (),
        cost: Cost | None = None,
    ) -> Saga:
        """Forget the steps' intents: their nonces are spent, or `left` to the lane. `cost`: of
        the transaction that spent one."""
        after = leaving(charged(saga, cost), left)
        intents = [intent for step in steps if (intent := saga.intent(step)) is not None]
        await self._write(
            saga,
            saga.state,
            entry=self._entry(saga, kind="retry", note=note),
            removed=[step.value for step in steps],
            fields={"attempts": attempts},
            after=after,
            done=[intent for intent in intents if intent not in left],
            left=left,
        )
        changes = {step.value: None for step in steps}
        return msgspec.structs.replace(
            after, version=saga.version + 1, attempts=attempts, **changes
        )

    async def postpone(
        self, saga: Saga, *, seconds: float, attempts: int, error: str, noted: bool = False
    ) -> None:
        """Give the saga up until a time; any replica goes on then. `noted`: the history, which
        keeps 500 entries, has one of this already."""
        await self._write(
            saga,
            saga.state,
            entry=b"" if noted else self._entry(saga, kind="retry", note=error),
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
        letter = None
        if change.dead_letter:
            letter = await self._letters.of(saga, after)
            fields |= letter.fields
        for name in ("model_id", "error", "error_class", "duplicate_of", "conflicts_with"):
            value = getattr(after, name)
            if value is not None and value != getattr(saga, name):
                fields[name] = value
        removed = ["error"] if saga.error and not after.error else []
        done = []
        for name in ("deploy", "register", "deployment", "registration"):
            before, value = getattr(saga, name), getattr(after, name)
            if value is before:
                continue
            if isinstance(before, Intent) and before not in change.left:
                done.append(before)
            if value is None:
                removed.append(name)
            else:
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
            after=after,
            removed=removed,
            done=done,
            left=change.left,
            event=change.event or b"",
            ack=change.ack,
            letter=letter,
        )
        if end and self._pause_ms:  # its turn would be left to nobody
            await self._client.zrem(self._keys.turns, saga.id)
        return msgspec.structs.replace(
            after,
            state=to,
            version=saga.version + 1,
            attempts=0,
            crashes=0,
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
        after: Saga | None = None,
        mode: str = "lease",
        span_ms: int | None = None,
        removed: Sequence[str] = (),
        event: bytes = b"",
        ack: bool = False,
        letter: Letter | None = None,
        done: Sequence[Intent] = (),
        left: Sequence[Intent] = (),
    ) -> None:
        """`done`: intents whose nonces nobody will look at any more; `left`: those whose nonces are
        the lane's alone. `after`: the saga with what the write has cost it."""
        counts = msgspec.structs.asdict(raised(saga, after or saga))
        counted = [pair for pair in counts.items() if pair[1]]
        answer = await self._scripts.call(
            "move",
            [
                *self._trio(saga),
                self._keys.index(saga.state),
                self._keys.index(to),
                self._keys.processing,
                self._keys.outbound,
                self._keys.dead_letters,
                self._keys.failures,
                self._keys.totals,
                self._keys.event(saga.id),
                self._keys.events,
                *(self._keys.nonce(i.chain_id, i.sender, i.nonce) for i in (*done, *left)),
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
                b"" if letter is None else letter.entry,
                b"" if letter is None else letter.event,
                len(done),
                FILL_KEPT_MS,
                self._event_ms,
                self._keys.event_prefix,
                len(counted),
                *itertools.chain.from_iterable(counted),
                len(removed),
                *removed,
                *itertools.chain.from_iterable(fields.items()),
                *itertools.chain.from_iterable(spending(saga, after or saga)),
            ],
        )
        self._check(saga, cast("bytes", answer))
        self._on_written(saga, after or saga)
        if letter is not None:
            self._on_failed(letter.failure)


def _with(saga: Saga, intents: Sequence[Intent], version: int) -> Saga:
    """The saga with what was stored for it."""
    changes = {intent.step.value: intent for intent in intents}
    return msgspec.structs.replace(saga, version=version, **changes)
