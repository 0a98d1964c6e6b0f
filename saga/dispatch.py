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
from saga.slots import Slots
from saga.throttle import Throttle

LANE_PATIENCE_SECONDS = 60.0
"""How long a saga waits in memory for room in a full lane; then it waits in `due`."""
BLOCKED_SECONDS = 5.0
"""How long what keeps a lane from giving a nonce is believed before the lane is asked again."""


class _Booking:
    """What this process knows of one lane."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.turn = asyncio.Lock()
        self.waiting = 0
        """Sagas that wait for their turn."""
        self.next_nonce = 0
        """A guess: the lane in the store knows."""
        self.begun = False
        """Whether the lane was asked for where it stands."""
        self.full_at: tuple[int, int, bool] | None = None
        """Head and spent nonces at which the lane was full, and whether for a pair: until more is
        known, others need not ask."""
        self.blocked: tuple[float, HeldError | None] = (0.0, None)
        """Until when, by the clock, and why the lane gives nothing."""

    @property
    def out(self) -> int:
        """How many nonces are given and not spent, as far as known here."""
        return max(0, self.next_nonce - self.lane.spent_nonces)


class _Wish:
    """What a saga wants to send, at the price of a block."""

    def __init__(self, saga: Saga, action: Intend, priced_at: int) -> None:
        self.saga = saga
        self.action = action
        self.priced_at = priced_at
        """The head at which its calls were priced."""
        self.known: dict[str, int] = {}
        """By signer: where a lane begins that Redis does not know."""

    @property
    def pair(self) -> bool:
        return self.action.follow is not None

    @property
    def cost(self) -> int:
        """Most that it may cost, wei."""
        calls = (self.action.call, self.action.follow)
        return sum(call.gas * call.max_fee for call in calls if call is not None)


class Dispatcher:
    """One for a process. `throttle`: None without DEPLOYMENTS_PER_HOUR."""

    def __init__(
        self,
        journal: Journal,
        chain: Chain,
        *,
        throttle: Throttle | None = None,
        clock: Callable[[], float] | None = None,
        slots: Slots | None = None,
    ) -> None:
        self._slots = slots or Slots(1)
        self._journal = journal
        self._chain = chain
        self._throttle = throttle
        self._clock = clock or (lambda: asyncio.get_running_loop().time())
        self._bookings = [_Booking(lane) for lane in chain.lanes]

    async def intend(self, saga: Saga, action: Intend) -> tuple[Saga, Fact]:
        """Sign with the nonces that a lane gives, and store nonces and bytes in one write.

        The lane is asked with a guess; a wrong guess costs one more signature, never a nonce.
        Raises HeldError when nothing can be sent for a while.
        """
        wish = _Wish(saga, action, self._chain.head_number)
        deadline = self._clock() + LANE_PATIENCE_SECONDS
        while True:
            if self._throttle is not None and action.step is Step.DEPLOY:
                await self._throttle.turn(saga)
            seen, answer = self._seen(), None
            booking = self._choose(wish)
            if booking is not None:
                answer = await self._ask(booking, wish)
            if answer is None or answer.lane_full:
                if self._choose(wish) is not None:
                    continue
                if self._clock() > deadline:
                    raise HeldError("lane_full", "MAX_IN_FLIGHT transactions are out")
                if seen == self._seen():
                    async with self._slots.waiting():
                        await self._chain.next_block()
            elif answer.saga is not None:
                return answer.saga, Intended()
            elif answer.claim_holder is not None:
                return saga, ClaimLost(answer.claim_holder)

    def _seen(self) -> tuple[int, ...]:
        """What has to change before a full lane is asked again."""
        return (self._chain.head_number, *(b.lane.spent_nonces for b in self._bookings))

    def _choose(self, wish: _Wish) -> _Booking | None:
        """The lane for these calls, or None when all that are not held are full.

        Raises HeldError when all are held.
        """
        held: HeldError | None = None
        able = []
        for booking in self._bookings:
            # What is out has not been paid for yet, and cost about the same.
            hold = self._hold(booking, wish.cost + wish.cost * booking.out // (1 + wish.pair))
            if hold is None:
                able.append(booking)
            held = held or hold
        if held is not None and not able:
            raise held
        room = [booking for booking in able if not self._known_full(booking, wish)]
        return min(room, key=_load, default=None)

    def _hold(self, booking: _Booking, cost: int) -> HeldError | None:
        until, why = booking.blocked
        if why is not None and self._clock() < until:
            return why
        return booking.lane.hold(cost)

    def _known_full(self, booking: _Booking, wish: _Wish) -> bool:
        """Where a pair has no room, a single one may; where a single one has none, no pair."""
        seen = (self._chain.head_number, booking.lane.spent_nonces)
        return booking.full_at in ((*seen, wish.pair), (*seen, False))

    async def _ask(self, booking: _Booking, wish: _Wish) -> IntentAnswer | None:
        """Ask the lane when it is this saga's turn. None when others have learnt meanwhile that
        there is nothing to be had."""
        booking.waiting += 1
        try:
            async with booking.turn:
                if self._known_full(booking, wish) or self._hold(booking, 0) is not None:
                    return None
                await self._price(wish)
                if not await self._begin(booking, wish):
                    return None
                full = (self._chain.head_number, booking.lane.spent_nonces, wish.pair)
                answer = await self._signed(booking, wish)
                booking.full_at = full if answer.lane_full else None
                if answer.nonce_unknown:
                    booking.begun = False  # Redis was lost meanwhile
                if answer.retired is not None:
                    self._block(booking, HeldError("retired", answer.retired))
                return answer
        finally:
            booking.waiting -= 1

    async def _begin(self, booking: _Booking, wish: _Wish) -> bool:
        """Where the lane stands, before the first signature: those may take their time. False when
        it cannot begin yet."""
        if booking.begun:
            return True
        lane = booking.lane
        following = await self._journal.next_nonce(lane.chain_id, lane.address)
        if following is None:
            try:
                following = wish.known[lane.address] = await lane.known_nonces()
            except HeldError as error:
                self._block(booking, error)
                return False
        booking.next_nonce, booking.begun = following, True
        return True

    def _block(self, booking: _Booking, why: HeldError) -> None:
        booking.blocked = (self._clock() + BLOCKED_SECONDS, why)

    async def _signed(self, booking: _Booking, wish: _Wish) -> IntentAnswer:
        lane, nonce, action = booking.lane, booking.next_nonce, wish.action
        signing = [lane.sign(action.step, action.call, nonce)]
        if action.follow is not None:
            signing.append(lane.sign(Step.REGISTER, action.follow, nonce + 1))
        # Side by side: a key service takes as long for two as for one.
        intents = await asyncio.gather(*signing)
        answer = await self._journal.intend(
            wish.saga,
            intents,
            cost_gas=action.call.cost_gas,
            spent=lane.spent_nonces,
            known=wish.known.get(lane.address),
            sure=lane.sure_nonces,
        )
        if answer.saga is not None:
            booking.next_nonce = nonce + len(intents)
        elif answer.next_nonce is not None:
            booking.next_nonce = answer.next_nonce
        return answer

    async def _price(self, wish: _Wish) -> None:
        """Blocks may have gone by since the calls were priced."""
        head, action = self._chain.head_number, wish.action
        if head == wish.priced_at:
            return
        follow = None if action.follow is None else await self._chain.priced(action.follow)
        wish.action = Intend(action.step, await self._chain.priced(action.call), follow)
        wish.priced_at = head


def _load(booking: _Booking) -> tuple[bool, int]:
    return booking.lane.strained, booking.waiting + booking.out
