"""One EVM chain through its lanes: look up, price, send, ask, watch."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import msgspec

from adapters.chain_lane import ChainLane
from adapters.fee_oracle import FeeOracle
from adapters.gas import GasBook
from adapters.lookup import Lookup
from adapters.purse import questions
from adapters.rpc import RpcError, sane
from adapters.rpc_errors import SendVerdict, send_verdict
from adapters.rpc_pool import RpcPool
from adapters.signed import genuine
from adapters.watcher import BlockWatcher
from saga import fees
from saga.errors import ChainUnavailableError, HeldError, TamperedError
from saga.facts import Call, Refused, Reverted, Sent, Stranded, TimedOut, Unmined
from saga.fees import Budget
from saga.messages import ModelReadyToDeployMessage
from saga.model import Intent, Saga, Step
from saga.ports import Asked, Found, Watched

T = TypeVar("T")
BLOCK_PATIENCE_SECONDS = 30.0
"""How long a saga waits for room in a full lane before it waits in `due` instead."""
SEND_TRIES = 3
"""Of the same bytes, when no node answered: repeating them changes nothing."""
SEND_PAUSE_SECONDS = 0.25


class EvmChain:
    """`saga.ports.Chain`. The watcher runs as a task of its own."""

    def __init__(
        self,
        rpc: RpcPool,
        watcher: BlockWatcher,
        lookup: Lookup,
        gas: GasBook,
        oracle: FeeOracle,
        budget: Budget,
        lanes: Sequence[ChainLane],
    ) -> None:
        self._rpc = rpc
        self._watcher = watcher
        self._lookup = lookup
        self._gas = gas
        self._oracle = oracle
        self._budget = budget
        self.lanes = lanes
        self.is_abandoned: Callable[[int, str], Awaitable[bool]] = _never
        """Whether the key of a chain id and address was given up by an operator, as lost."""
        self._sent: dict[tuple[str, str], dict[str, Intent]] = {}
        """(saga, lease's owner) → what that run has broadcast and is watched, by first hash."""

    @property
    def head_number(self) -> int:
        return self._watcher.head.number

    async def next_block(self) -> None:
        try:
            async with asyncio.timeout(BLOCK_PATIENCE_SECONDS):
                await self._watcher.next_block()
        except TimeoutError:
            kept = next((lane.kept for lane in self.lanes if lane.kept), "")
            raise HeldError("lane_full", kept or "MAX_IN_FLIGHT transactions are out") from None

    async def look_up(self, saga: Saga, step: Step, message: ModelReadyToDeployMessage) -> Found:
        return await self._lookup.look_up(saga, step, message, self.priced)

    async def priced(self, call: Call) -> Call:
        offered = fees.offer(await self._oracle.market(), self._budget.limits, call.cost_gas)
        if isinstance(offered, fees.Held):
            raise HeldError(offered.hold, offered.reason)
        return msgspec.structs.replace(
            call,
            max_fee=offered.max_fee,
            max_priority_fee=offered.max_priority_fee,
            legacy=offered.legacy,
        )

    async def send(self, saga: Saga, step: Step) -> Sent | Refused | Stranded:
        """Give the stored bytes to the nodes, after checking that they are what was stored.

        A lost reply and a contradiction count as sent: the hash is watched, nothing is signed.
        Without funds for it the saga waits, or goes to another lane where there is one that has.
        """
        intent = saga.intent(step)
        assert intent is not None  # noqa: S101 - sent only with an intent
        follow = saga.register if step is Step.DEPLOY else None
        behind = follow is not None and follow.nonce == intent.nonce + 1
        together = [intent, follow] if behind and follow is not None else [intent]
        for each in together:
            if not genuine(each.attempts[-1]):
                what = each.attempts[-1].hash
                raise TamperedError(f"the stored bytes are not transaction {what}")
        self._expect(saga, together)
        try:
            outcomes = await self._broadcast([each.attempts[-1].raw for each in together])
        except BaseException:
            self.release(saga)
            raise
        fact = _verdict(outcomes[0], intent)
        if not isinstance(fact, Sent):
            self.release(saga)
        if isinstance(fact, HeldError):
            if fact.hold == "funds":
                self._refused(intent.sender, str(fact))
                if self._elsewhere(intent.sender, sum(map(_cost, together))):
                    return Stranded(str(fact))
            raise fact
        return fact

    def _refused(self, sender: str, reason: str) -> None:
        for lane in self.lanes:
            if lane.address == sender:
                lane.refused(reason)

    async def balance_seen(self, sender: str, balance: int, spent: int) -> None:
        """What the signer of a lane cannot pay for goes to another lane, if there is one that can:
        when all nodes that answer say so, the richest and the furthest of them counting.

        Raises ChainUnavailableError.
        """
        self._watcher.counted(sender, spent)
        most = max((watch.cost for watch in self._watcher.unmined(sender, spent)), default=0)
        if most <= balance or not self._elsewhere(sender, 2 * most):
            return
        balance, spent = await self._everywhere(sender)
        for watch in self._watcher.unmined(sender, spent):
            if watch.cost > balance:
                what = f"{sender} has {balance} wei, nonce {watch.intent.nonce} may cost more"
                watch.settle(Stranded(what))

    @sane
    async def _everywhere(self, sender: str) -> tuple[int, int]:
        nodes = await self._rpc.everywhere(questions([sender]))
        told = [answers for answers in nodes if all(isinstance(a, str) for a in answers)]
        if not told:
            raise ChainUnavailableError(f"{self._rpc.host} eth_getBalance: no answer")
        return max(int(b, 16) for b, _ in told), max(int(n, 16) for _, n in told)

    def _elsewhere(self, sender: str, cost: int) -> bool:
        """Whether another lane can pay so many wei."""
        return any(lane.address != sender and lane.hold(cost) is None for lane in self.lanes)

    def _expect(self, saga: Saga, intents: Sequence[Intent]) -> None:
        """Watch what is about to be sent, until the saga is released."""
        held = self._sent.setdefault((saga.id, saga.lease.owner), {})
        for intent in intents:
            if intent.attempts[0].hash not in held:
                held[intent.attempts[0].hash] = intent
                self._watcher.expect(intent, sent=True)

    async def _broadcast(
        self, raws: Sequence[str]
    ) -> list[list[str | RpcError | ChainUnavailableError]]:
        outcomes = await self._rpc.broadcast(raws)
        for _ in range(SEND_TRIES - 1):
            if not all(isinstance(o, ChainUnavailableError) for found in outcomes for o in found):
                break
            await asyncio.sleep(SEND_PAUSE_SECONDS)
            outcomes = await self._rpc.broadcast(raws)
        return outcomes

    async def ask(self, intent: Intent) -> Asked:
        """What became of the stored hashes: from memory where this process watches them."""
        watch = self._watcher.known(intent)
        if watch is not None and watch.settled.done():
            return self._noted(watch.settled.result())
        if watch is not None and watch.sent:
            return Sent()
        fact = await self._watcher.ask(intent)
        if fact is None:
            return Unmined()
        return Sent() if isinstance(fact, int) else self._noted(fact)

    async def watch(self, intent: Intent, seconds: float) -> Watched:
        """Wait until one of the stored hashes is confirmed, or the nonce is another's.

        What is not the transaction's fault is no time-out: raises HeldError when it is mined and
        not deep enough yet, when the keeper holds the lane, when another nonce is in front, or
        when the nonce is spent and that is not proven yet; ChainUnavailableError when no node has
        answered or no block has come.
        """
        began = self.head_number
        settled = self._watcher.expect(intent, sent=False)
        try:
            async with asyncio.timeout(seconds):
                return self._noted(await asyncio.shield(settled))
        except TimeoutError:
            fact = self._timed_out(intent, seconds, began)
            if await self._is_lost(intent):
                nonce = f"nonce {intent.nonce} of {intent.sender}"
                return Stranded(f"{nonce} is not mined, and that key was given up")
            return fact
        finally:
            self._watcher.forget(intent)

    def _timed_out(self, intent: Intent, seconds: float, began: int) -> TimedOut:
        silent = self._watcher.silent_seconds
        if silent > seconds / 2:
            raise ChainUnavailableError(f"{self._rpc.host} has not answered for {silent:.0f} s")
        watch = self._watcher.known(intent)
        if watch is not None and watch.seen_in is not None:
            where = f"mined in block {watch.seen_in[0]}"
            raise HeldError("confirmations", f"{where}, waits for its confirmations")
        if watch is not None and watch.bare_in is not None:
            where = f"mined in block {watch.bare_in}"
            raise HeldError("no_code", f"{where}, and no node shows code at {intent.predicted}")
        lane = next((lane for lane in self.lanes if lane.address == intent.sender), None)
        if lane is not None and lane.kept:
            raise HeldError("lane_held", lane.kept)
        if self.head_number <= began:
            raise ChainUnavailableError(f"{self._rpc.host}: no block for {seconds:g} s")
        if lane is not None and lane.spent_nonces < intent.nonce:
            raise HeldError("lane", f"nonce {lane.spent_nonces} is in front and not mined yet")
        if lane is not None and lane.spent_nonces > intent.nonce:
            reason = f"nonce {intent.nonce} is spent, by which transaction is not proven yet"
            why = "" if watch is None or not watch.unproven else f": {watch.unproven}"
            raise HeldError("nonce_spent", reason + why)
        return TimedOut(seconds)

    async def _is_lost(self, intent: Intent) -> bool:
        """Whether nobody can sign in the place of the intent any more."""
        ours = any(lane.address == intent.sender for lane in self.lanes)
        return not ours and await self.is_abandoned(intent.chain_id, intent.sender)

    def release(self, saga: Saga) -> None:
        """This run of the saga does not wait for its transactions any more."""
        for intent in self._sent.pop((saga.id, saga.lease.owner), {}).values():
            self._watcher.forget(intent)

    def _noted(self, fact: T) -> T:
        """A revert means that simulations of before are not true any more."""
        if isinstance(fact, Reverted):
            self._gas.forget()
        return fact


async def _never(_chain_id: int, _sender: str) -> bool:
    return False


def _cost(intent: Intent) -> int:
    """Most that the last attempt may cost, in wei: what a pool wants to see in the account."""
    last = intent.attempts[-1]
    return last.gas * last.max_fee


def _verdict(
    outcomes: Sequence[str | RpcError | ChainUnavailableError], intent: Intent
) -> Sent | Refused | HeldError:
    """What all nodes together said of some bytes.

    Refused only when every one has answered so; held when those that answered are.
    """
    answered = [found for found in outcomes if not isinstance(found, ChainUnavailableError)]
    errors = [found for found in answered if isinstance(found, RpcError)]
    if not errors or len(errors) < len(answered):
        return Sent()
    verdicts = {send_verdict(error) for error in errors}
    text = "; ".join(dict.fromkeys(error.message for error in errors))
    if verdicts == {SendVerdict.NEVER} and len(errors) == len(outcomes):
        return Refused(f"no node takes transaction {intent.attempts[-1].hash}: {text}")
    if SendVerdict.HOLD in verdicts and verdicts <= {SendVerdict.NEVER, SendVerdict.HOLD}:
        hold = "node_cap" if "cap" in text.lower() else "funds"
        return HeldError(hold, f"{intent.sender}: {text}")
    return Sent()
