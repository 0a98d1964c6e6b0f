"""Gives a saga's transactions their lane and their nonces: signed and stored in one write.

Sagas are spread over the lanes, each to the one with the least on its way. A lane that is held is
passed over; only when all are does the saga wait.
"""

import asyncio
from collections.abc import Callable

from saga.actions import Intend
from saga.errors import HeldError
from saga.facts import ClaimLost, Fact, Intended
from saga.model import Saga, Step
from saga.ports import Chain, IntentAnswer, Journal, Lane

LANE_PATIENCE_SECONDS = 60.0
"""How long a saga waits with a worker for room in a full lane; then it waits in `due`."""
THROTTLE_PATIENCE_SECONDS = 5.0
"""The same for its turn under DEPLOYMENTS_PER_HOUR: what comes later is waited for in `due`."""


class _Booking:
    """What this process knows of one lane."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.turn = asyncio.Lock()
        self.waiting = 0
        """Sagas that wait for their turn."""
        self.next_nonce = 0
        """A guess: the lane in the store knows."""
        self.shut: tuple[int, int, bool] | None = None
        """Head and spent nonces at which nothing could be had, and whether for a pair: until more
        is known, others need not ask."""
        self.retired: tuple[int, str] = (-1, "")
        """The head at which the store said that nothing new is sent from here, and why."""
        self.begun = False
        """Whether the lane was asked for where it stands."""

    @property
    def out(self) -> int:
        """How many nonces are given and not spent, as far as known here."""
        return max(0, self.next_nonce - self.lane.spent_nonces)


class Dispatcher:
    """One for a process. `pause_seconds`: between two deployments of all replicas; 0: none."""

    def __init__(
        self,
        journal: Journal,
        chain: Chain,
        *,
        pause_seconds: float = 0.0,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._journal = journal
        self._chain = chain
        self._pause_seconds = pause_seconds
        self._clock = clock or (lambda: asyncio.get_running_loop().time())
        self._bookings = [_Booking(lane) for lane in chain.lanes]
        self._free_at = 0.0
        """When the throttle lets the next deployment through, as far as known here."""
        self._queued_until = 0.0
        """When the last one that waits in `due` for the throttle has its turn."""

    async def intend(self, saga: Saga, action: Intend) -> tuple[Saga, Fact]:
        """Sign with the nonces that a lane gives, and store nonces and bytes in one write.

        The lane is asked with a guess; a wrong guess costs one more signature, never a nonce.
        Raises HeldError when nothing can be sent for a while.
        """
        known: dict[str, int] = {}
        priced_at = self._chain.head_number
        deadline = self._clock() + LANE_PATIENCE_SECONDS
        while True:
            if action.step is Step.DEPLOY:
                await self._throttled(deadline)
            if priced_at != self._chain.head_number:
                priced_at, action = self._chain.head_number, await self._priced(action)
            seen = self._seen()
            booking = self._choose(action)
            answer = None
            if booking is not None:
                answer = await self._ask(booking, saga, action, known, priced_at)
            if answer is None or answer.lane_full:
                if self._clock() > deadline:
                    raise HeldError("lane_full", "MAX_IN_FLIGHT transactions are out")
                if self._choose(action) is None and seen == self._seen():
                    await self._chain.next_block()
            elif answer.saga is not None:
                return answer.saga, Intended()
            elif answer.claim_holder is not None:
                return saga, ClaimLost(answer.claim_holder)

    def _seen(self) -> tuple[int, ...]:
        """What has to change before a full lane is asked again."""
        return (self._chain.head_number, *(b.lane.spent_nonces for b in self._bookings))

    def _choose(self, action: Intend) -> _Booking | None:
        """The lane for these calls, or None when all that are not held are full.

        Raises HeldError when all are held.
        """
        calls = [action.call, *([action.follow] if action.follow else [])]
        cost = sum(call.gas * call.max_fee for call in calls)
        held: HeldError | None = None
        able = []
        for booking in self._bookings:
            # What is out has not been paid for yet, and cost about the same.
            hold = booking.lane.hold(cost + cost * booking.out // len(calls))
            if booking.retired[0] == self._chain.head_number:
                hold = HeldError("retired", booking.retired[1])
            if hold is None:
                able.append(booking)
            held = held or hold
        if held is not None and not able:
            raise held
        room = [b for b in able if not self._known_full(b, pair=len(calls) > 1)]
        return min(room, key=_load, default=None)

    def _known_full(self, booking: _Booking, *, pair: bool) -> bool:
        """Where a pair has no room, a single one may; where a single one has none, no pair."""
        seen = (self._chain.head_number, booking.lane.spent_nonces)
        return booking.shut in ((*seen, pair), (*seen, False))

    async def _ask(
        self,
        booking: _Booking,
        saga: Saga,
        action: Intend,
        known: dict[str, int],
        priced_at: int,
    ) -> IntentAnswer | None:
        """Ask the lane when it is this saga's turn. None when there is nothing to be had, as others
        have learnt meanwhile, or when the price is that of an older block."""
        booking.waiting += 1
        try:
            async with booking.turn:
                pair = action.follow is not None
                if self._known_full(booking, pair=pair) or self._wait_seconds(action) > 0:
                    return None
                if priced_at != self._chain.head_number or booking.lane.hold(0) is not None:
                    return None
                await self._begin(booking, known)
                seen = (self._chain.head_number, booking.lane.spent_nonces, pair)
                answer = await self._signed(booking, saga, action, known)
                booking.shut = seen if answer.lane_full else None
                if answer.nonce_unknown:
                    booking.begun = False  # Redis was lost meanwhile
                if answer.retired is not None:
                    booking.retired = (seen[0], answer.retired)
                if answer.throttled_seconds is not None:
                    self._free_at = self._clock() + answer.throttled_seconds
                return answer
        finally:
            booking.waiting -= 1

    async def _begin(self, booking: _Booking, known: dict[str, int]) -> None:
        """Where the lane stands, before the first signature: those may take their time."""
        if booking.begun:
            return
        lane = booking.lane
        following = await self._journal.next_nonce(lane.chain_id, lane.address)
        if following is None:
            following = known[lane.address] = await lane.known_nonces()
        booking.next_nonce, booking.begun = following, True

    async def _signed(
        self, booking: _Booking, saga: Saga, action: Intend, known: dict[str, int]
    ) -> IntentAnswer:
        lane, nonce = booking.lane, booking.next_nonce
        signing = [lane.sign(action.step, action.call, nonce)]
        if action.follow is not None:
            signing.append(lane.sign(Step.REGISTER, action.follow, nonce + 1))
        # Side by side: a key service takes as long for two as for one.
        intents = await asyncio.gather(*signing)
        answer = await self._journal.intend(
            saga,
            intents,
            cost_gas=action.call.cost_gas,
            spent=lane.spent_nonces,
            known=known.get(lane.address),
            sure=lane.sure_nonces,
        )
        if answer.saga is not None:
            booking.next_nonce = nonce + len(intents)
        elif answer.next_nonce is not None:
            booking.next_nonce = answer.next_nonce
        return answer

    def _wait_seconds(self, action: Intend) -> float:
        """Until the throttle lets a deployment through; none for anything else."""
        return self._free_at - self._clock() if action.step is Step.DEPLOY else 0.0

    async def _throttled(self, deadline: float) -> None:
        """Wait for a turn that comes soon.

        Raises HeldError with the time of the turn when it comes later: those that wait come back
        one after the other, not all at once.
        """
        now = self._clock()
        wait = self._free_at - now
        if wait <= 0:
            return
        if wait <= THROTTLE_PATIENCE_SECONDS and now < deadline:
            await asyncio.sleep(wait)
            return
        turn = max(self._queued_until, self._free_at)
        self._queued_until = turn + self._pause_seconds
        raise HeldError(
            "throttled",
            f"DEPLOYMENTS_PER_HOUR: the next deployment may be sent in {wait:.0f} s",
            seconds=turn - now,
        )

    async def _priced(self, action: Intend) -> Intend:
        """Time has gone by since the call was priced."""
        follow = action.follow
        return Intend(
            action.step,
            await self._chain.priced(action.call),
            None if follow is None else await self._chain.priced(follow),
        )


def _load(booking: _Booking) -> tuple[bool, int]:
    return booking.lane.strained, booking.waiting + booking.out
