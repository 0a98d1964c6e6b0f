"""The head of a chain, polled as rarely as its blocks allow; who waits for blocks waits here."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
import structlog

from adapters.rpc import Request, Rpc, sane
from saga.errors import ChainUnavailableError, StoreUnavailableError
from saga.outage import Outages

FIRST_POLL_SECONDS = 0.05
MAX_POLL_SECONDS = 2.0
IDLE_POLL_SECONDS = 10.0
CATCH_UP_BLOCKS = 64
"""A longer gap is bridged by asking for every hash instead of every block."""

Block = dict[str, Any]
_log = structlog.get_logger("saga.heads")


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """A block header, as far as it matters here. Time in seconds, fee in wei."""

    number: int
    hash: str
    parent: str
    time: int
    base_fee: int | None


class HeadFollower:
    """Polls for the head. `run()` is its task.

    Subclasses say whether anybody waits for something (`busy`) and take in what a poll brought
    (`arrived`). `finality`: also ask for the chain's `finalized` block.
    """

    def __init__(self, rpc: Rpc, *, poll_seconds: float, finality: bool) -> None:
        self._rpc = rpc
        self._poll_seconds = poll_seconds or MAX_POLL_SECONDS
        self._finality = finality
        self._times: dict[str, int] = {}
        self._waiters: list[asyncio.Future[None]] = []
        self._wake = asyncio.Event()
        self._delay = FIRST_POLL_SECONDS
        self._answered_at = 0.0
        self._arrived_at = 0.0
        self._now = False
        self.block_seconds: float | None = None
        """Between two blocks, as seen of late."""
        self.head = Head(number=0, hash="", parent="", time=0, base_fee=None)
        self.finalized = 0
        self.outages = Outages()
        """Where it is told that nodes or Redis are away; shared with the process's other parts."""
        self.pushing: Callable[[], bool] = lambda: False
        """Whether a node says `pushed` at each head: then polling is the fallback."""

    @property
    def busy(self) -> bool:
        """Whether the next block matters to anybody."""
        return bool(self._waiters)

    async def arrived(self, blocks: dict[int, Block], *, whole: bool) -> None:
        """A new head is here. `blocks`: it, and those since the last poll by number; not `whole`
        when some are missing, or when the chain was reorganised."""

    async def unchanged(self) -> bool:
        """The head is the one of the last poll. True when something else is news."""
        return False

    async def run(self) -> None:
        """Poll until cancelled. A node that does not answer is logged and asked again."""
        while True:
            self._now = False
            try:
                await self.poll()
                self.outages.chain.over()
            except (ChainUnavailableError, StoreUnavailableError) as error:
                self.outages.met(error)
            except Exception:  # noqa: BLE001 - one answer must not leave everything unwatched
                _log.exception("chain.watcher_crashed")
            await self._rest()

    async def _rest(self) -> None:
        """Until the next poll is due; what changes that meanwhile wakes this up."""
        began = time.monotonic()
        while not self._now:
            self._wake.clear()
            left = began + self._pause() - time.monotonic()
            if left <= 0:
                break
            with suppress(TimeoutError):
                # Not wait_for: before Python 3.12 it swallows a cancellation now and then.
                async with asyncio.timeout(left):
                    await self._wake.wait()
        self._delay *= 2

    def _pause(self) -> float:
        """Until the next block is due; from then on often, and ever more slowly."""
        if not self.busy:
            return IDLE_POLL_SECONDS
        due = self._due_in()
        if self.pushing():
            return max(due, 0.0) + self._poll_seconds
        if due > 0:
            return min(max(due, FIRST_POLL_SECONDS), self._poll_seconds)
        often = self._poll_seconds if self.block_seconds is None else self.block_seconds
        self._delay = min(self._delay, max(often / 4, 2 * FIRST_POLL_SECONDS))
        return min(self._delay, self._poll_seconds)

    def _due_in(self) -> float:
        """Seconds until the next block is expected; negative when it is late, or not known."""
        return self._arrived_at + (self.block_seconds or 0.0) - time.monotonic()

    @property
    def silent_seconds(self) -> float:
        """How long no poll has succeeded."""
        return time.monotonic() - self._answered_at

    def pushed(self) -> None:
        """A node says that there is a new head."""
        self._now = True
        self._wake.set()

    def hurry(self) -> None:
        """Somebody waits for a block: poll soon, unless the time of the next one is known."""
        self._delay = FIRST_POLL_SECONDS
        self._wake.set()

    async def next_block(self) -> None:
        """Return when a block has come in, or more is known of the newest one."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self.hurry()
        try:
            await waiter
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    @sane
    async def poll(self) -> None:
        """Ask once. Raises ChainUnavailableError."""
        requests: list[Request] = [("eth_getBlockByNumber", ["latest", False])]
        if self._finality:
            requests.append(("eth_getBlockByNumber", ["finalized", False]))
        block, *rest = await self._rpc.batch(requests)
        if not isinstance(block, dict):
            raise ChainUnavailableError(f"{self._rpc.host} eth_getBlockByNumber: {block}")
        self._answered_at = time.monotonic()
        if rest and isinstance(rest[0], dict):
            self.finalized = int(rest[0]["number"], 16)
        before, self.head = self.head, _head(block)
        if self.head.hash == before.hash:
            if await self.unchanged():
                self._release_waiters()
            return
        self._timed(before)
        blocks, whole = {self.head.number: block}, self.head.parent == before.hash
        try:
            if self.busy and not whole:
                missed, whole = await self._missed(before)
                blocks |= missed
            for found in blocks.values():
                self._times[found["hash"]] = int(found["timestamp"], 16)
            while len(self._times) > 4 * CATCH_UP_BLOCKS:
                del self._times[next(iter(self._times))]
            await self.arrived(blocks, whole=whole)
        except BaseException:
            # The next poll must not take these blocks for seen.
            self.head = before
            raise
        self._release_waiters()

    def _timed(self, before: Head) -> None:
        """Learn the time between blocks. Timestamps are exact, unless they run ahead of the blocks
        as on instant chains."""
        now = time.monotonic()
        blocks = self.head.number - before.number
        if before.hash and blocks > 0:
            stamped = (self.head.time - before.time) / blocks
            seen = (now - self._arrived_at) / blocks
            exact = seen > stamped / 2
            self.block_seconds = max(stamped if exact else seen, FIRST_POLL_SECONDS)
        self._arrived_at = now
        self._delay = FIRST_POLL_SECONDS

    async def _missed(self, before: Head) -> tuple[dict[int, Block], bool]:
        """The blocks since the last poll, and whether they lead on from it without a gap."""
        numbers = range(before.number + 1, self.head.number)
        if not before.hash or not 0 < len(numbers) < min(CATCH_UP_BLOCKS, self.worth_blocks):
            return {}, False
        answers = await self._rpc.batch(
            [("eth_getBlockByNumber", [hex(number), False]) for number in numbers]
        )
        blocks = {int(b["number"], 16): b for b in answers if isinstance(b, dict)}
        first, last = blocks.get(numbers[0]), blocks.get(numbers[-1])
        whole = (
            len(blocks) == len(numbers)
            and first is not None
            and last is not None
            and first["parentHash"] == before.hash
            and last["hash"] == self.head.parent
        )
        return blocks, whole

    @property
    def worth_blocks(self) -> int:
        """How many missed blocks are cheaper to ask for than what is waited for."""
        return CATCH_UP_BLOCKS

    async def block_time(self, block_hash: str) -> int:
        """Seconds since 1970 of a block, remembered for recent ones."""
        if block_hash not in self._times:
            (block,) = await self._rpc.batch([("eth_getBlockByHash", [block_hash, False])])
            if not isinstance(block, dict):
                raise ChainUnavailableError(f"{self._rpc.host}: block {block_hash}: {block}")
            self._times[block_hash] = int(block["timestamp"], 16)
        return self._times[block_hash]

    def _release_waiters(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


def _head(block: Block) -> Head:
    base_fee = block.get("baseFeePerGas")
    return Head(
        number=int(block["number"], 16),
        hash=block["hash"],
        parent=block["parentHash"],
        time=int(block["timestamp"], 16),
        base_fee=None if base_fee is None else int(base_fee, 16),
    )
