"""One watcher of new blocks for everything that is in flight; nothing polls per saga.

A new head's transaction hashes are compared with those that are watched. What is deep enough is
asked for once per block, together with the signer's nonce and the code of deployed tokens. A hash
whose block is no longer the chain's is looked for again, and its bytes are sent again at once.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from decimal import Decimal

import structlog

from adapters.heads import Block, HeadFollower
from adapters.receipts import Raw, Receipts, came_to_nothing, receipt_of, shows_code
from adapters.rpc import Request, sane
from adapters.rpc_pool import RpcPool
from adapters.signed import genuine
from adapters.watches import Settled, Watch
from saga.errors import ChainUnavailableError
from saga.facts import Mined
from saga.model import Attempt, Intent, Step

AttemptsOf = Callable[[Intent], Awaitable[Sequence[Attempt]]]
_log = structlog.get_logger("saga.watcher")


class BlockWatcher(HeadFollower):
    """Watches transactions, and counts the nonces of our signers.

    `confirmations`: blocks, the transaction's own included; None: the chain's `finalized` block.
    `attempts_of`: every transaction ever signed for an intent, as the store has it.
    """

    def __init__(
        self,
        rpc: RpcPool,
        senders: Sequence[str],
        *,
        confirmations: int | None,
        poll_seconds: float,
        attempts_of: AttemptsOf,
    ) -> None:
        super().__init__(rpc, poll_seconds=poll_seconds, finality=confirmations is None)
        self._pool = rpc
        self._senders = tuple(senders)
        self._confirmations = confirmations
        self._attempts_of = attempts_of
        self._receipts = Receipts(rpc)
        self._watches: dict[str, Watch] = {}
        self._sizes: dict[int, int] = {}
        self._counted_at = ""
        """The hash of the head at which the nonces were counted."""
        self._spent: dict[str, int] = {}
        """By signer: sagas of a replica with another key may be taken over here."""
        self._sure: dict[str, int] = {}
        self.native_usd: Callable[[], Decimal | None] = lambda: None
        """Price of one native token now, where one is known."""

    def spent(self, sender: str) -> int:
        """How many transactions of a signer the chain holds, as last seen."""
        return self._spent.get(sender, 0)

    def sure(self, sender: str) -> int:
        """The same, said twice: one answer of one node must not move the lane."""
        return self._sure.get(sender, 0)

    @property
    def busy(self) -> bool:
        return bool(self._watches) or super().busy

    @property
    def worth_blocks(self) -> int:
        return 2 * len(self._watches) + 2

    def expect(self, intent: Intent, *, sent: bool) -> "asyncio.Future[Settled]":
        """Watch an intent's hashes. `sent`: nothing was broadcast before this call.

        Call it before broadcasting, so that no block goes by unseen. Watching twice is one watch,
        until it was forgotten twice.
        """
        key = intent.attempts[0].hash
        watch = self._watches.get(key)
        if watch is None:
            watch = self._watches[key] = Watch(intent, sent=sent)
            self.hurry()
        watch.users += 1
        return watch.settled

    def known(self, intent: Intent) -> Watch | None:
        """The watch of an intent, when there is one."""
        return self._watches.get(intent.attempts[0].hash)

    def counted(self, sender: str, spent: int) -> None:
        """Somebody else has asked how many nonces a signer of ours has spent: nobody asks while
        nothing is watched."""
        if not self.busy:
            self._spent[sender] = max(spent, self.spent(sender))

    def unmined(self, sender: str, spent: int) -> list[Watch]:
        """What is watched of a signer, and in no block as far as known."""
        return [w for w in self._watches.values() if w.unmined(sender, spent)]

    def forget(self, intent: Intent) -> None:
        """One of those who expected it does not wait any more."""
        watch = self._watches.get(intent.attempts[0].hash)
        if watch is not None:
            watch.users -= 1
            if watch.users <= 0:
                del self._watches[intent.attempts[0].hash]

    async def arrived(self, blocks: dict[int, Block], *, whole: bool) -> None:
        """Note which watched hashes are in which block, and settle what is deep enough."""
        self._sizes = {number: len(block["transactions"]) for number, block in blocks.items()}
        holders = {tx: number for number, block in blocks.items() for tx in block["transactions"]}
        for watch in self._watches.values():
            for attempt in watch.attempts:
                if attempt.hash in holders:
                    watch.seen_in = (holders[attempt.hash], attempt.hash)
            watch.ask |= not whole and watch.seen_in is None
            watch.check |= not whole
        await self._settle()

    async def unchanged(self) -> bool:
        uncounted = self.busy and self._counted_at != self.head.hash
        if uncounted or any(watch.ask for watch in self._watches.values()):
            await self._settle()
        return uncounted

    def _deep(self, number: int) -> bool:
        """Whether a block is as deep as asked."""
        if self._confirmations is None:
            return number <= self.finalized
        return number <= self.head.number - self._confirmations + 1

    def _overdue(self, watch: Watch) -> bool:
        return watch.overdue(self.spent(watch.intent.sender))

    async def _settle(self) -> None:
        """Ask for what is ripe, and conclude."""
        if not self.busy and self._counted_at:
            return
        head = self.head.hash
        asked: list[Watch] = []
        wanted: dict[int, list[str]] = {}
        unplaced: list[str] = []
        for watch in list(self._watches.values()):
            if watch.settled.done():
                continue
            if watch.seen_in is not None and (self._deep(watch.seen_in[0]) or watch.check):
                wanted.setdefault(watch.seen_in[0], []).append(watch.seen_in[1])
            elif watch.ask:
                if watch.taken_seen:
                    watch.attempts = tuple(await self._attempts_of(watch.intent))
                unplaced += [attempt.hash for attempt in watch.attempts]
            else:
                continue
            asked.append(watch)
        # At the head the receipt itself shows the code (`shows_code`); deeper it is asked for.
        deploying = asked if self._confirmations != 1 else []
        codes = [watch for watch in deploying if watch.intent.step is Step.DEPLOY]
        senders = list(
            dict.fromkeys([*self._senders, *(w.intent.sender for w in self._watches.values())])
        )
        also: list[Request] = [("eth_getTransactionCount", [each, "latest"]) for each in senders]
        also += [("eth_getCode", [watch.intent.predicted, "latest"]) for watch in codes]
        found, unknown, told = await self._receipts.fetch(wanted, self._sizes, unplaced, also)
        counts, answers = told[: len(senders)], told[len(senders) :]
        if all(isinstance(count, str) for count in counts):
            before = self._spent
            self._spent = {each: int(n, 16) for each, n in zip(senders, counts, strict=True)}
            self._sure = {each: min(n, before.get(each, 0)) for each, n in self._spent.items()}
            self._counted_at = head
        # An error answer is no code either.
        bare = {
            id(watch)
            for watch, code in zip(codes, answers, strict=True)
            if not isinstance(code, str) or code == "0x"
        }
        lost = [
            watch.attempts[-1].raw
            for watch in asked
            if await self._conclude(watch, found, unknown, has_code=id(watch) not in bare)
            and genuine(watch.attempts[-1])
        ]
        for watch in self._watches.values():
            watch.ask |= self._overdue(watch)
        await self.rebroadcast(lost)

    async def _conclude(
        self, watch: Watch, found: dict[str, Raw], unknown: set[str], *, has_code: bool
    ) -> bool:
        """Settle one watch if it can be. True when its block is no longer the chain's."""
        for attempt in watch.attempts:
            if (raw := found.get(attempt.hash)) is not None:
                await self._receipt(watch, attempt, raw, has_code=has_code)
                return False
        if any(attempt.hash in unknown for attempt in watch.attempts):
            # An error answer is no absence: such a watch is asked for again at the next poll.
            watch.ask = True
            return False
        lost = watch.seen_in is not None
        watch.ask, watch.check, watch.seen_in = lost, False, None
        if self._overdue(watch):
            await watch.observe_taken(self._prove_taken, self.head.hash)
        else:
            watch.taken_seen = 0
        return lost

    async def _receipt(self, watch: Watch, attempt: Attempt, raw: Raw, *, has_code: bool) -> None:
        number = int(raw["blockNumber"], 16)
        watch.ask, watch.check, watch.seen_in = False, False, (number, attempt.hash)
        if not self._deep(number):
            return
        fact = await self._judge(attempt, raw, watch.intent)
        if isinstance(fact, Mined) and self._confirmations == 1:
            has_code = shows_code(raw, watch.intent) or await self._has_code(watch.intent)
        if isinstance(fact, Mined) and not has_code:
            # The node that told of the code is behind the one that gave the receipt.
            _log.warning("chain.no_code_yet", token=watch.intent.predicted)
            watch.seen_in, watch.ask, watch.bare_in = None, True, number
        else:
            watch.settle(fact)

    async def _judge(self, attempt: Attempt, raw: Raw, intent: Intent) -> Settled:
        """What a receipt that is deep enough says."""
        if (nothing := came_to_nothing(raw, attempt, intent)) is not None:
            return nothing
        when, usd = await self.block_time(raw["blockHash"]), self.native_usd()
        return Mined(receipt_of(raw, when, attempt=attempt, native_usd=usd))

    async def _prove_taken(self, watch: Watch) -> bool:
        """Whether the nonce is spent at confirmed depth by none of ours, on every node that answers
        and on two at least where there are two. (The chain is looked at before anything is signed
        anew, so that a token that is there is adopted.)"""
        depth = "finalized"
        if self._confirmations is not None:
            depth = hex(max(self.head.number - self._confirmations + 1, 0))
        requests: list[Request] = [("eth_getTransactionCount", [watch.intent.sender, depth])]
        requests += [("eth_getTransactionReceipt", [attempt.hash]) for attempt in watch.attempts]
        nodes = await self._pool.everywhere(requests)
        needed = min(2, self._pool.endpoint_count)
        if len(nodes) < needed:
            watch.unproven = f"{len(nodes)} endpoint(s) answer, {needed} must agree"
            return False
        proven = all(
            isinstance(count, str)
            and int(count, 16) > watch.intent.nonce
            and all(receipt is None for receipt in receipts)
            for count, *receipts in nodes
        )
        watch.unproven = "" if proven else f"not every node says so at block {depth}"
        return proven

    @sane
    async def ask(self, intent: Intent) -> Settled | int | None:
        """What the chain says of an intent's transactions right now: a fact, the block of one that
        is not deep enough yet, or None when no block holds any. Raises ChainUnavailableError."""
        attempts = await self._attempts_of(intent)
        found = await self._receipts.of([attempt.hash for attempt in attempts])
        for attempt in attempts:
            if (raw := found.get(attempt.hash)) is not None:
                number = int(raw["blockNumber"], 16)
                if not self._deep(number):
                    await self.poll()  # an idle watcher's head is some seconds old
                if not self._deep(number):
                    return number
                fact = await self._judge(attempt, raw, intent)
                if isinstance(fact, Mined) and not await self._has_code(intent):
                    return number
                return fact
        return None

    async def _has_code(self, intent: Intent) -> bool:
        """Whether a deployment's token is there, for the node that is asked now."""
        if intent.step is not Step.DEPLOY:
            return True
        (code,) = await self._pool.batch([("eth_getCode", [intent.predicted, "latest"])])
        return isinstance(code, str) and len(code) > len("0x")

    @sane
    async def confirmed(self, raw: Raw) -> Mined:
        """Anybody's receipt as a fact. Raises ChainUnavailableError until it is deep enough."""
        number = int(raw["blockNumber"], 16)
        if not self._deep(number):
            await self.poll()
        if not self._deep(number):
            raise ChainUnavailableError(
                f"transaction {raw['transactionHash']} waits for its confirmations"
            )
        return Mined(receipt_of(raw, await self.block_time(raw["blockHash"])))

    async def rebroadcast(self, raws: Iterable[str]) -> None:
        """Send stored bytes again; what the nodes say of them does not matter here."""
        if stored := [raw for raw in raws if raw]:
            await self._pool.broadcast(stored)
