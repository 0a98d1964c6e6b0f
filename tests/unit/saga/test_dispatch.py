"""Which lane a saga gets, and when it has to wait: a store and lanes that answer as told."""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import msgspec
import pytest

from saga.actions import Intend
from saga.dispatch import BLOCKED_SECONDS, LANE_PATIENCE_SECONDS, Dispatcher
from saga.errors import HeldError, SignerError
from saga.facts import Call, ClaimLost, Intended
from saga.model import Intent, Saga, State, Step
from saga.ports import Chain, IntentAnswer, Journal
from saga.throttle import EARLY_SECONDS, WAITERS, Throttle
from tests.support.sagas import CALL, OTHER, make
from tests.support.sagas import intent as signed_intent

DEPLOY = Intend(Step.DEPLOY, CALL)
PAIR = Intend(Step.DEPLOY, CALL, CALL)
REGISTER = Intend(Step.REGISTER, CALL)
SAGA = make(State.VALIDATED)


class ToldLane:
    """One lane of a chain that is told what is the case."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.chain_id = 1
        self.spent_nonces = 0
        self.sure_nonces = 0
        self.strained = False
        self.held: HeldError | None = None
        self.costs: list[int] = []

    def hold(self, cost: int) -> HeldError | None:
        self.costs.append(cost)
        return self.held

    async def known_nonces(self) -> int:
        await asyncio.sleep(0)
        return 7

    async def sign(self, step: Step, call: Call, nonce: int) -> Intent:
        return msgspec.structs.replace(signed_intent(step, nonce), sender=self.address)


class ToldChain:
    """The part of a chain that the dispatcher needs."""

    def __init__(self, *addresses: str) -> None:
        self.lanes = [ToldLane(address) for address in addresses or ("A",)]
        self.head_number = 1
        self.blocks = 0
        self.priced_calls = 0

    async def priced(self, call: Call) -> Call:
        self.priced_calls += 1
        return call

    async def next_block(self) -> None:
        """Everything that is out is mined in it."""
        self.blocks += 1
        self.head_number += 1
        for lane in self.lanes:
            lane.spent_nonces = max(lane.spent_nonces, STORE.next.get(lane.address, 0))


class ToldStore:
    """A store that gives each lane's nonces as `intend.lua` does."""

    def __init__(self, *, limit: int = 0, answers: Sequence[IntentAnswer] = ()) -> None:
        self.next: dict[str, int] = {}
        self.limit = limit
        self.answers = list(answers)
        self.asked = 0
        self.senders: list[str] = []
        self.turns: list[float] = []
        """Seconds that are still to be told."""

    async def turn(self, _saga_id: str) -> float:
        return self.turns.pop(0) if self.turns else 0.0

    async def next_nonce(self, _chain_id: int, sender: str) -> int | None:
        return self.next.get(sender)

    async def intend(self, saga: Saga, intents: Sequence[Intent], **state: Any) -> IntentAnswer:
        self.asked += 1
        await asyncio.sleep(0)
        if self.answers:
            return self.answers.pop(0)
        first = intents[0]
        if first.sender not in self.next:
            if state["known"] is None:
                return IntentAnswer(nonce_unknown=True)
            self.next[first.sender] = state["known"]
        following = max(self.next[first.sender], state["sure"])
        if self.limit and following + len(intents) - max(state["spent"], 7) > self.limit:
            return IntentAnswer(lane_full=True)
        if first.nonce != following:
            return IntentAnswer(next_nonce=following)
        self.next[first.sender] = following + len(intents)
        self.senders.append(first.sender)
        return IntentAnswer(saga=saga)


STORE = ToldStore()


@pytest.fixture(autouse=True)
def store() -> ToldStore:
    """The one that `ToldChain.next_block` looks at."""
    STORE.__init__()  # type: ignore[misc]  # emptied
    return STORE


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def dispatcher(chain: ToldChain, store: ToldStore, **options: Any) -> Dispatcher:
    return Dispatcher(cast("Journal", store), cast("Chain", chain), **options)


async def test_spread(store: ToldStore) -> None:
    """Sagas that come together are spread evenly over the lanes, each from where it begins."""
    chain = ToldChain("A", "B")
    made = dispatcher(chain, store)
    results = await asyncio.gather(*(made.intend(SAGA, PAIR) for _ in range(20)))
    assert {fact for _, fact in results} == {Intended()}
    assert (store.senders.count("A"), store.senders.count("B")) == (10, 10)
    assert store.next == {"A": 27, "B": 27}


async def test_held_lane_is_passed_over(store: ToldStore) -> None:
    """A lane that cannot pay gets nothing while another one can."""
    chain = ToldChain("A", "B")
    chain.lanes[0].held = HeldError("funds", "A is empty")
    made = dispatcher(chain, store)
    await asyncio.gather(*(made.intend(SAGA, DEPLOY) for _ in range(5)))
    assert store.senders == ["B"] * 5


async def test_all_held(store: ToldStore) -> None:
    """Where no lane can pay the saga waits, and the first one's reason is told."""
    chain = ToldChain("A", "B")
    for lane in chain.lanes:
        lane.held = HeldError("min_balance", f"{lane.address} is empty")
    with pytest.raises(HeldError, match="A is empty") as held:
        await dispatcher(chain, store).intend(SAGA, DEPLOY)
    assert (held.value.hold, store.asked) == ("min_balance", 0)


async def test_strained_lane_comes_last(store: ToldStore) -> None:
    """A lane in which something is stuck is taken when there is no other."""
    chain = ToldChain("A", "B")
    chain.lanes[0].strained = True
    made = dispatcher(chain, store)
    await asyncio.gather(*(made.intend(SAGA, DEPLOY) for _ in range(3)))
    assert store.senders == ["B"] * 3
    chain.lanes[1].held = HeldError("funds", "B is empty")
    await made.intend(SAGA, DEPLOY)
    assert store.senders[-1] == "A"


async def test_what_is_out_has_to_be_paid_too(store: ToldStore) -> None:
    """A lane is asked whether it can pay for the pair, and for as much again for each one out."""
    chain = ToldChain()
    made = dispatcher(chain, store)
    for _ in range(3):
        await made.intend(SAGA, PAIR)
        chain.lanes[0].spent_nonces = 7
    pair = 2 * CALL.gas * CALL.max_fee
    await made.intend(SAGA, PAIR)
    assert chain.lanes[0].costs[0] == pair
    assert max(chain.lanes[0].costs) == 4 * pair


async def test_full_lanes_wait_for_a_block(store: ToldStore) -> None:
    """Where all lanes are full the sagas wait for the next block, are priced anew, and nobody asks
    twice for what is known to be full."""
    store.limit = 2
    chain = ToldChain("A", "B")
    made = dispatcher(chain, store)
    await asyncio.gather(*(made.intend(SAGA, PAIR) for _ in range(6)))
    assert sorted(store.senders) == ["A"] * 3 + ["B"] * 3
    assert chain.blocks >= 2
    assert chain.priced_calls > 0


async def test_full_for_ever(store: ToldStore) -> None:
    """A saga holds a worker for a minute at most; then it waits in `due`."""
    clock, chain = Clock(), ToldChain()

    async def no_block() -> None:
        clock.now += LANE_PATIENCE_SECONDS / 2 + 1

    chain.next_block = no_block  # type: ignore[method-assign]
    store.answers = [IntentAnswer(lane_full=True)] * 9
    with pytest.raises(HeldError, match="MAX_IN_FLIGHT") as held:
        await dispatcher(chain, store, clock=clock).intend(SAGA, DEPLOY)
    assert held.value.hold == "lane_full"


async def test_claim_lost(store: ToldStore) -> None:
    """A model that passed to another saga is told as a fact."""
    store.answers = [IntentAnswer(claim_holder=OTHER)]
    _, fact = await dispatcher(ToldChain(), store).intend(SAGA, DEPLOY)
    assert fact == ClaimLost(OTHER)


async def test_retired(store: ToldStore) -> None:
    """A lane that is handed over is passed over; when there is no other the saga waits, and some
    seconds later it is asked again, also where no block comes."""
    store.answers = [IntentAnswer(retired="A goes to B")]
    chain = ToldChain("A", "B")
    made = dispatcher(chain, store)
    await made.intend(SAGA, DEPLOY)
    assert store.senders == ["B"]
    store.answers = [IntentAnswer(retired="A goes to B")]
    clock = Clock()
    made = dispatcher(ToldChain("A"), store, clock=clock)
    for _ in range(2):
        asked = store.asked
        with pytest.raises(HeldError, match="A goes to B") as held:
            await made.intend(SAGA, DEPLOY)
        assert held.value.hold == "retired"
    assert store.asked == asked
    clock.now += BLOCKED_SECONDS
    await made.intend(SAGA, DEPLOY)
    assert store.senders == ["B", "A"]


async def test_throttled_for_long(store: ToldStore) -> None:
    """Who has its turn later waits in `due` until about then, and signs nothing."""
    store.turns = [100.0]
    made = dispatcher(ToldChain(), store, throttle=Throttle(store))
    with pytest.raises(HeldError, match="its turn comes in 100 s") as held:
        await made.intend(SAGA, DEPLOY)
    assert (held.value.hold, held.value.seconds) == ("throttled", 100.0 - EARLY_SECONDS)
    assert store.asked == 0


async def test_throttled_for_a_moment(store: ToldStore) -> None:
    """A turn that comes soon is waited for with the worker."""
    store.turns = [0.01]
    chain = ToldChain()
    _, fact = await dispatcher(chain, store, throttle=Throttle(store)).intend(SAGA, DEPLOY)
    assert fact == Intended()
    assert store.senders == ["A"]


async def test_few_wait_for_a_turn_with_a_worker(store: ToldStore) -> None:
    """Workers are for those that have something to do: of many whose turn is soon two wait."""
    store.turns = [0.05] * 5
    made = dispatcher(ToldChain(), store, throttle=Throttle(store))
    ended = await asyncio.gather(
        *(made.intend(SAGA, DEPLOY) for _ in range(5)), return_exceptions=True
    )
    assert sum(isinstance(error, HeldError) for error in ended) == 5 - WAITERS
    assert len(store.senders) == WAITERS


async def test_too_early_after_all(store: ToldStore) -> None:
    """When somebody else has taken the token meanwhile, the turn is asked for anew."""
    store.answers = [IntentAnswer(throttled_seconds=0.01)]
    store.turns = [0.0, 0.01]
    _, fact = await dispatcher(ToldChain(), store, throttle=Throttle(store)).intend(SAGA, DEPLOY)
    assert fact == Intended()
    assert store.turns == []


async def test_registrations_pass_the_throttle(store: ToldStore) -> None:
    """Nobody registers later because of DEPLOYMENTS_PER_HOUR."""
    store.turns = [1000.0]
    made = dispatcher(ToldChain(), store, throttle=Throttle(store))
    _, fact = await made.intend(SAGA, REGISTER)
    assert fact == Intended()
    assert store.turns == [1000.0]


async def test_unknown_pending_on_one_lane(store: ToldStore) -> None:
    """A lane whose pool holds what Redis does not know is passed over; alone, it is told why."""

    async def unknown() -> int:
        raise HeldError("unknown_pending", "nonces 3 to 4 are pending")

    chain = ToldChain("A", "B")
    chain.lanes[0].known_nonces = unknown  # type: ignore[method-assign]
    made = dispatcher(chain, store)
    await asyncio.gather(*(made.intend(SAGA, DEPLOY) for _ in range(5)))
    assert store.senders == ["B"] * 5
    alone = ToldChain("C")
    alone.lanes[0].known_nonces = unknown  # type: ignore[method-assign]
    with pytest.raises(HeldError, match="are pending") as held:
        await dispatcher(alone, store).intend(SAGA, DEPLOY)
    assert held.value.hold == "unknown_pending"


async def test_priced_anew_in_a_new_block(store: ToldStore) -> None:
    """What has waited for its turn while a block came is signed at the price of now."""
    chain = ToldChain()
    made = dispatcher(chain, store)
    signing = asyncio.Event()

    async def slow(step: Step, call: Call, nonce: int) -> Intent:
        await signing.wait()
        return signed_intent(step, nonce)

    chain.lanes[0].sign = slow  # type: ignore[method-assign]
    waiting = [asyncio.create_task(made.intend(SAGA, DEPLOY)) for _ in range(3)]
    await asyncio.sleep(0)
    chain.head_number += 1
    signing.set()
    await asyncio.gather(*waiting)
    assert chain.priced_calls >= 1


async def test_a_signer_that_is_away_is_learnt_once(store: ToldStore) -> None:
    """Those who wait behind a signature that could not be had do not wait for the same answer."""
    chain = ToldChain()
    asked = 0

    async def away(step: Step, call: Call, nonce: int) -> Intent:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        chain.lanes[0].held = SignerError("sealed")
        raise SignerError("sealed")

    chain.lanes[0].sign = away  # type: ignore[method-assign]
    made = dispatcher(chain, store)
    ended = await asyncio.gather(
        *(made.intend(SAGA, DEPLOY) for _ in range(5)), return_exceptions=True
    )
    assert [str(error) for error in ended] == ["sealed"] * 5
    assert asked == 1


async def test_no_signature_before_the_lane_is_known(store: ToldStore) -> None:
    """A slow key service is asked for what is used: the first nonce is known before it signs."""
    chain, signed = ToldChain(), []

    async def counted(step: Step, call: Call, nonce: int) -> Intent:
        signed.append(nonce)
        return signed_intent(step, nonce)

    chain.lanes[0].sign = counted  # type: ignore[method-assign]
    made = dispatcher(chain, store)
    await asyncio.gather(*(made.intend(SAGA, DEPLOY) for _ in range(6)))
    assert signed == [7, 8, 9, 10, 11, 12]
