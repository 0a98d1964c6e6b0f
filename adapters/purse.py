"""The balances of our signers, looked at again and again: what cannot be paid for is not begun."""

import asyncio
from collections.abc import Callable, Sequence

import structlog

from adapters.metrics import Metrics
from adapters.rpc_pool import RpcPool
from saga.errors import ChainUnavailableError, HeldError
from saga.fees import ether

IDLE_SECONDS = 30.0
"""Between two looks while nothing is out and nothing lacks: an operator may have taken funds."""
_log = structlog.get_logger("saga.purse")


class Purse:
    """`least`: wei that has to be there for anything new to be sent, 0: no such limit.

    `on_look` is told each signer's balance: the higher one of two looks, since one answer of one
    lagging node must strand nobody.
    """

    def __init__(
        self,
        rpc: RpcPool,
        addresses: Sequence[str],
        meter: Metrics,
        *,
        least: int,
        poll_seconds: float,
        busy: Callable[[], bool],
    ) -> None:
        self._rpc = rpc
        self._addresses = addresses
        self._meter = meter
        self._least = least
        self._poll_seconds = poll_seconds
        self._busy = busy
        self._balances: dict[str, int] = {}
        self._lacking: dict[str, bool] = {}
        self.on_look: Callable[[str, int], None] = lambda address, balance: None

    def balance(self, address: str) -> int | None:
        """In wei, as last seen; None before that."""
        return self._balances.get(address)

    def hold(self, address: str, cost: int) -> HeldError | None:
        """Why a signer cannot pay `cost` wei and keep what it has to; None when it can."""
        balance = self._balances.get(address)
        if balance is None:
            return None
        if balance < self._least:
            return HeldError(
                "min_balance",
                f"{address} has {ether(balance)} of the native token, less than MIN_BALANCE_WEI "
                f"{self._least}: send it some",
            )
        if balance < cost:
            return HeldError(
                "funds",
                f"insufficient funds: {address} has {ether(balance)} of the native token, what is "
                f"out and this may cost {ether(cost)}",
            )
        return None

    async def run(self) -> None:
        """Look around until cancelled: often while something is out or lacks."""
        rested = IDLE_SECONDS
        while True:
            if self._busy() or any(self._lacking.values()) or rested >= IDLE_SECONDS:
                rested = 0.0
                await self.look()
            await asyncio.sleep(self._poll_seconds)
            rested += self._poll_seconds

    async def look(self) -> None:
        """Ask for all balances at once. Without an answer the last ones stand."""
        try:
            answers = await self._rpc.batch(
                [("eth_getBalance", [address, "latest"]) for address in self._addresses]
            )
        except ChainUnavailableError:
            return
        for address, answer in zip(self._addresses, answers, strict=True):
            if isinstance(answer, str):
                self._seen(address, int(answer, 16))

    def _seen(self, address: str, balance: int) -> None:
        before = self._balances.get(address, balance)
        self._balances[address] = balance
        lacks = balance < max(self._least, 1)
        if lacks != self._lacking.get(address, False):
            note = _log.warning if lacks else _log.info
            note("purse.low" if lacks else "purse.filled", address=address, wei=balance)
        self._lacking[address] = lacks
        self._meter.balance(address, balance, low=lacks)
        self.on_look(address, max(before, balance))
