"""One watcher of new blocks for everything that is in flight; nothing polls per saga.

Each poll asks for the head and the signer's nonce. The hashes of each new block are compared with
those that are watched, and receipts are fetched for the hits alone, in one batch. Every
RECHECK_SECONDS all that is still out is asked for by hash, and sent again if the chain lacks it:
nodes forget transactions, and absence on one of them proves nothing.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import msgspec
import structlog

from adapters.receipts import receipt_of
from adapters.rpc import Request, RpcClient, RpcError
from saga.errors import ChainUnavailableError
from saga.facts import Mined, NonceTaken, Reverted
from saga.model import Attempt, Intent

FIRST_POLL_SECONDS = 0.05
MAX_POLL_SECONDS = 2.0
IDLE_POLL_SECONDS = 10.0
RECHECK_SECONDS = 10.0
CATCH_UP_BLOCKS = 64
"""A longer gap is bridged by asking for every hash instead of every block."""
NONCE_TAKEN_OBSERVATIONS = 3
"""As op-service/txmgr: one answer of a lagging node must not count."""

Settled = Mined | Reverted | NonceTaken
_log = structlog.get_logger("saga.watcher")


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """A block header, as far as it matters here. Time in seconds, fee in wei."""

    number: int
    hash: str
    parent: str
    time: int
    base_fee: int | None


class _Watch:
    """One intent in flight."""

    def __init__(self, intent: Intent, *, sent: bool) -> None:
        self.intent = intent
        self.settled: asyncio.Future[Settled] = asyncio.get_running_loop().create_future()
        self.ask = not sent
        """Ask by hash at the next poll: it may be in a block that has gone by."""
        self.mined_in: int | None = None
        self.taken_seen = 0
        self.checked_at = time.monotonic()

    def settle(self, fact: Settled) -> None:
        if not self.settled.done():
            self.settled.set_result(fact)


class BlockWatcher:
    """Follows the head of one chain for one signer. `run()` is its task."""

    def __init__(
        self, rpc: RpcClient, sender: str, *, confirmations: int, poll_seconds: float
    ) -> None:
        self._rpc = rpc
        self._sender = sender
        self._confirmations = confirmations
        self._poll_seconds = poll_seconds or MAX_POLL_SECONDS
        self._watches: dict[str, _Watch] = {}
        self._times: dict[str, int] = {}
        self._waiters: list[asyncio.Future[None]] = []
        self._wake = asyncio.Event()
        self._delay = FIRST_POLL_SECONDS
        self._answered_at = 0.0
        self._block_seconds = 4 * self._poll_seconds
        self.head = Head(number=0, hash="", parent="", time=0, base_fee=None)
        self.spent_nonces = 0

    async def run(self) -> None:
        """Poll until cancelled. A node that does not answer is logged and asked again."""
        failing = False
        while True:
            try:
                await self.poll()
                failing = False
            except ChainUnavailableError as error:
                if not failing:
                    _log.warning("chain.unavailable", error=str(error))
                failing = True
            self._wake.clear()
            busy = self._watches or self._waiters
            pause = min(self._delay, self._longest_pause()) if busy else IDLE_POLL_SECONDS
            self._delay = pause * 2
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause)

    def _longest_pause(self) -> float:
        """A quarter of the time between the last two blocks, at most POLL_SECONDS."""
        return min(max(self._block_seconds / 4, 2 * FIRST_POLL_SECONDS), self._poll_seconds)

    @property
    def silent_seconds(self) -> float:
        """How long no poll has succeeded."""
        return time.monotonic() - self._answered_at

    def expect(self, intent: Intent, *, sent: bool) -> "asyncio.Future[Settled]":
        """Watch an intent's hashes. `sent`: nothing was broadcast before this call.

        Call it before broadcasting, so that no block goes by unseen. Watching twice is one watch.
        """
        key = intent.attempts[0].hash
        watch = self._watches.get(key)
        if watch is None or watch.settled.done():
            watch = self._watches[key] = _Watch(intent, sent=sent)
        self._hurry()
        return watch.settled

    def forget(self, intent: Intent) -> None:
        """Stop watching an intent."""
        self._watches.pop(intent.attempts[0].hash, None)

    async def next_block(self) -> None:
        """Return when a block has come in."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._hurry()
        await waiter

    def _hurry(self) -> None:
        """Poll soon, then ever more slowly up to the poll interval: instant chains are quick."""
        self._delay = FIRST_POLL_SECONDS
        self._wake.set()

    async def poll(self) -> None:
        """Ask once and settle what can be settled. Raises ChainUnavailableError."""
        block, spent = await self._rpc.batch(
            [
                ("eth_getBlockByNumber", ["latest", False]),
                ("eth_getTransactionCount", [self._sender, "latest"]),
            ]
        )
        if not isinstance(block, dict) or not isinstance(spent, str):
            answer = spent if isinstance(block, dict) else block
            raise ChainUnavailableError(f"{self._rpc.host}: {answer}")
        self._answered_at = time.monotonic()
        head = _head(block)
        before, self.head = self.head, head
        self.spent_nonces = int(spent, 16)
        self._times[head.hash] = head.time
        if head.hash != before.hash:
            self._release_waiters()
            if before.hash and head.number > before.number:
                self._block_seconds = (head.time - before.time) / (head.number - before.number)
        if not self._watches:
            return
        hits = set(block["transactions"])
        ask_all = False
        if head.hash != before.hash and head.parent != before.hash:
            gap = head.number - before.number
            if 1 < gap <= CATCH_UP_BLOCKS and before.hash:
                hits |= await self._hashes_between(before.number + 1, head.number)
            else:
                ask_all = True
        await self._settle(self._asked_now(hits, ask_all=ask_all))

    def _asked_now(self, hits: set[str], *, ask_all: bool) -> list[_Watch]:
        """The watches whose receipts are worth asking for at this poll."""
        now = time.monotonic()
        chosen = []
        for watch in self._watches.values():
            due = (
                ask_all
                or watch.ask
                or any(attempt.hash in hits for attempt in watch.intent.attempts)
                or now - watch.checked_at > RECHECK_SECONDS
                or (watch.mined_in is None and watch.intent.nonce < self.spent_nonces)
                or (
                    watch.mined_in is not None
                    and self.head.number >= watch.mined_in + self._confirmations - 1
                )
            )
            if due:
                chosen.append(watch)
        return chosen

    async def _hashes_between(self, first: int, end: int) -> set[str]:
        blocks = await self._rpc.batch(
            [("eth_getBlockByNumber", [hex(number), False]) for number in range(first, end)]
        )
        hashes: set[str] = set()
        for block in blocks:
            if isinstance(block, dict):
                self._times[block["hash"]] = int(block["timestamp"], 16)
                hashes |= set(block["transactions"])
        return hashes

    async def _settle(self, watches: Sequence[_Watch]) -> None:
        if not watches:
            return
        asked = [(watch, attempt) for watch in watches for attempt in watch.intent.attempts]
        receipts = await self.receipts([attempt for _, attempt in asked])
        found: dict[int, Mined | Reverted | int] = {}
        unknown: set[int] = set()
        for (watch, _), receipt in zip(asked, receipts, strict=True):
            if isinstance(receipt, RpcError):
                unknown.add(id(watch))
            elif receipt is not None:
                found[id(watch)] = await self.judge(receipt)
        again: list[str] = []
        for watch in watches:
            # An error answer is no absence: such a watch is asked for again at the next poll.
            watch.ask = id(watch) in unknown and id(watch) not in found
            if not watch.ask:
                again += self._conclude(watch, found.get(id(watch)))
        await self.rebroadcast(again)

    def _conclude(self, watch: _Watch, found: Mined | Reverted | int | None) -> list[str]:
        """Settle one watch if it can be; returns bytes that must be sent again."""
        now = time.monotonic()
        rechecked = now - watch.checked_at > RECHECK_SECONDS
        if rechecked:
            watch.checked_at = now
        if isinstance(found, Mined | Reverted):
            watch.settle(found)
            return []
        if isinstance(found, int):
            watch.mined_in = found
            return []
        lost = watch.mined_in is not None
        watch.mined_in = None
        if watch.intent.nonce < self.spent_nonces:
            watch.taken_seen += 1
            if watch.taken_seen >= NONCE_TAKEN_OBSERVATIONS:
                watch.settle(NonceTaken(watch.intent.nonce))
            return []
        watch.taken_seen = 0
        return [watch.intent.attempts[-1].raw] if lost or rechecked else []

    async def receipts(self, attempts: Sequence[Attempt]) -> list[dict[str, Any] | RpcError | None]:
        """The receipts of some transactions, None where there is none. One batch."""
        return await self._rpc.batch(
            [("eth_getTransactionReceipt", [attempt.hash]) for attempt in attempts]
        )

    async def judge(self, raw: dict[str, Any]) -> Mined | Reverted | int:
        """A receipt as a fact, or its block number when it is not deep enough yet."""
        number = int(raw["blockNumber"], 16)
        if self.head.number < number + self._confirmations - 1:
            return number
        if int(raw["status"], 16) == 0:
            return Reverted(raw["transactionHash"])
        return Mined(receipt_of(raw, await self.block_time(raw["blockHash"])))

    async def block_time(self, block_hash: str) -> int:
        """Seconds since 1970 of a block, remembered for recent ones."""
        if block_hash not in self._times:
            (block,) = await self._rpc.batch([("eth_getBlockByHash", [block_hash, False])])
            if not isinstance(block, dict):
                raise ChainUnavailableError(f"{self._rpc.host}: block {block_hash}: {block}")
            self._times[block_hash] = int(block["timestamp"], 16)
        seconds = self._times[block_hash]
        while len(self._times) > 4 * CATCH_UP_BLOCKS:
            del self._times[next(iter(self._times))]
        return seconds

    async def rebroadcast(self, raws: Iterable[str]) -> None:
        """Send stored bytes again; what the node says of them does not matter here."""
        requests: list[Request] = [("eth_sendRawTransaction", [raw]) for raw in raws if raw]
        if requests:
            await self._rpc.batch(requests)

    def _release_waiters(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


def _head(block: dict[str, Any]) -> Head:
    base_fee = block.get("baseFeePerGas")
    return Head(
        number=int(block["number"], 16),
        hash=block["hash"],
        parent=block["parentHash"],
        time=int(block["timestamp"], 16),
        base_fee=None if base_fee is None else int(base_fee, 16),
    )
