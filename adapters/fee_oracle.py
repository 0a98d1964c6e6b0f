"""What the chain asks for now: base fee of the next block, and the tip that miners took of late."""

import asyncio
import re
import statistics
import time
from collections.abc import Callable
from typing import TypeVar

import msgspec

from adapters.rpc import Rpc, RpcError, failure
from adapters.rpc_errors import is_missing_method
from saga.errors import ChainError
from saga.fees import Market

CACHE_SECONDS = 3.0
"""A fraction of the shortest usual time between blocks of a chain with a fee market, some seconds:
sagas that sign side by side share one question."""
HISTORY_BLOCKS = 10
"""Two minutes of Ethereum: what miners take now, without the chance of a single block."""
BASE_FEE_STEP = 8
"""EIP-1559: from one block to the next the base fee rises by an eighth at most."""

_QUANTITY = re.compile(r"0x[0-9a-fA-F]{1,64}")
_T = TypeVar("_T")


class _History(msgspec.Struct):
    """The answer to `eth_feeHistory`. Nodes leave out, or fill with zeros, what they lack."""

    baseFeePerGas: list[str] | None = None  # noqa: N815 - names of the wire
    gasUsedRatio: list[float] | None = None  # noqa: N815
    reward: list[list[str]] | None = None


class _Block(msgspec.Struct):
    baseFeePerGas: str | None = None  # noqa: N815


class FeeOracle:
    """Asks one chain for its `Market`, at most every CACHE_SECONDS."""

    def __init__(
        self,
        rpc: Rpc,
        *,
        percentile: float,
        tip_floor: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`percentile` of the tips in a block, by gas, that counts as the block's.

        `tip_floor` in wei per gas; a gas price, on a chain without base fee, has no floor.
        """
        self._rpc = rpc
        self._percentile = percentile
        self._tip_floor = tip_floor
        self._monotonic = monotonic
        self._asking = asyncio.Lock()
        self._market: Market | None = None
        self._fresh_until = 0.0

    async def market(self) -> Market:
        """Raises ChainUnavailableError, or ChainError that names the method whose answer is bad."""
        async with self._asking:
            if self._market is None or self._monotonic() >= self._fresh_until:
                self._market = None  # what is too old is not used when the next question fails
                self._market = await self._ask()
                self._fresh_until = self._monotonic() + CACHE_SECONDS
            return self._market

    async def _ask(self) -> Market:
        history = await self._history()
        base_fee = _next_base_fee(history)
        if not base_fee:  # no such method, or a history of zeros: the block alone knows which
            base_fee = await self._bound_of_next_base_fee()
        if base_fee is None:
            return Market(base_fee=None, tip=await self._amount("eth_gasPrice"))
        tip = _usual_tip(history)
        if tip is None:
            tip = await self._suggested_tip(base_fee)
        return Market(base_fee=base_fee, tip=max(tip, self._tip_floor))

    async def _history(self) -> _History:
        """Empty where the node has no such method."""
        method = "eth_feeHistory"
        params = (hex(HISTORY_BLOCKS), "latest", [self._percentile])
        try:
            answer = await self._rpc.call(method, *params)
        except RpcError as error:
            if is_missing_method(error):
                return _History()
            raise failure(method, error) from error
        return _converted(method, answer, _History)

    async def _bound_of_next_base_fee(self) -> int | None:
        """The most that the next block may ask for; None when the latest one has no base fee."""
        method = "eth_getBlockByNumber"
        transactions = False  # their hashes are enough
        block = _converted(method, await self._rpc.ask(method, "latest", transactions), _Block)
        if block.baseFeePerGas is None:
            return None
        base_fee = _quantity(method, block.baseFeePerGas)
        return base_fee - (-base_fee // BASE_FEE_STEP)

    async def _suggested_tip(self, base_fee: int) -> int:
        """The node's own suggestion, of nodes without it what their gas price leaves for a tip."""
        method = "eth_maxPriorityFeePerGas"
        try:
            return _quantity(method, await self._rpc.call(method))
        except RpcError as error:
            if is_missing_method(error):
                return max(await self._amount("eth_gasPrice") - base_fee, 0)
            raise failure(method, error) from error

    async def _amount(self, method: str) -> int:
        return _quantity(method, await self._rpc.ask(method))


def _next_base_fee(history: _History) -> int | None:
    """The last element is of the block to come. None where the node gave none."""
    if history.baseFeePerGas is None:
        return None
    if not history.baseFeePerGas:
        raise ChainError("eth_feeHistory: baseFeePerGas is empty")
    return _quantity("eth_feeHistory", history.baseFeePerGas[-1])


def _usual_tip(history: _History) -> int | None:
    """Median over the blocks that held anything: an empty one tells of a tip of zero.

    Of two in the middle the lower: what is too low is bumped, what is too high is paid.
    """
    tips = []
    for used, rewards in zip(history.gasUsedRatio or (), history.reward or (), strict=False):
        if used > 0:
            if not rewards:
                raise ChainError("eth_feeHistory: a block without its reward")
            tips.append(_quantity("eth_feeHistory", rewards[0]))
    return statistics.median_low(tips) if tips else None


def _converted(method: str, answer: object, kind: type[_T]) -> _T:
    try:
        return msgspec.convert(answer, kind)
    except msgspec.ValidationError as error:
        raise ChainError(f"{method}: malformed answer: {error}") from error


def _quantity(method: str, value: object) -> int:
    if not isinstance(value, str) or not _QUANTITY.fullmatch(value):
        raise ChainError(f"{method}: no quantity where one belongs")
    return int(value, 16)
