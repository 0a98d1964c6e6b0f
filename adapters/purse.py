"""The balances of our signers, looked at again and again: what cannot be paid for is not begun."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

from adapters.metrics import Metrics
from adapters.rpc import Request, sane
from adapters.rpc_pool import RpcPool
from saga.errors import ChainUnavailableError, HeldError
from saga.fees import ether

IDLE_SECONDS = 30.0
"""Between two looks while nothing is out and nothing lacks: an operator may have taken funds."""
_log = structlog.get_logger("saga.purse")


class Purse:
    """`least`: wei that has to be there for anything new to be sent, 0: no such limit.

    `on_look` is told what each look found: address, balance in wei, nonces spent.
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
        self._wanted: dict[str, int] = {}
        """What was refused of late, wei."""
        self._lacking: dict[str, bool] = {}
        self.on_look: Callable[[str, int, int], Awaitable[None]] = _nobody

    def hold(self, address: str, cost: int) -> HeldError | None:
        """Why a signer cannot pay `cost` wei, or has less than it is to keep before that."""
        balance = self._balances.get(address)
        if balance is None:
            return None
        if balance < self._least:
            return HeldError(
                "min_balance",
                f"{address} has {ether(balance)} of the native token, less than MIN_BALANCE_WEI "
                f"{self._least}: send it some",
            )
        if balance < max(cost, 1):
            self._wanted[address] = max(cost, 1)
            return HeldError(
                "funds",
                f"insufficient funds: {address} has {ether(balance)} of the native token, what is "
                f"out and this may cost {ether(cost)}",
            )
        return None

    def trouble(self, address: str) -> HeldError | None:
        """Why nothing could be paid for of late, as far as that has not changed."""
        return self.hold(address, self._wanted.get(address, 0))

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
        """Ask for all at once. Without an answer that can be read, what was known stands."""
        try:
            found = await self._ask()
        except ChainUnavailableError as error:
            _log.debug("purse.unavailable", error=str(error))
            return
        for address, (balance, _) in zip(self._addresses, found, strict=True):
            self._seen(address, balance)
        for address, (balance, spent) in zip(self._addresses, found, strict=True):
            try:
                await self.on_look(address, balance, spent)
            except ChainUnavailableError as error:
                _log.debug("purse.unavailable", error=str(error))

    @sane
    async def _ask(self) -> list[tuple[int, int]]:
        """Balance and count of each. Raises ChainUnavailableError, also for an answer that is
        none."""
        answers = await self._rpc.batch(questions(self._addresses))
        return [
            (int(balance, 16), int(spent, 16))
            for balance, spent in zip(answers[::2], answers[1::2], strict=True)
        ]

    def _seen(self, address: str, balance: int) -> None:
        self._balances[address] = balance
        wanted = self._wanted.get(address, 0)
        if balance >= wanted:
            self._wanted.pop(address, None)
        lacks = balance < max(self._least, wanted, 1)
        if lacks != self._lacking.get(address, False):
            note = _log.warning if lacks else _log.info
            note("purse.low" if lacks else "purse.filled", address=address, wei=balance)
        self._lacking[address] = lacks
        self._meter.balance(address, balance, low=lacks)


def questions(addresses: Sequence[str]) -> list[Request]:
    """Balance before count: a transaction that is mined between the two shows in the count alone,
    and never as a balance that cannot pay for it."""
    return [
        (method, [address, "latest"])
        for address in addresses
        for method in ("eth_getBalance", "eth_getTransactionCount")
    ]


async def _nobody(_address: str, _balance: int, _spent: int) -> None:
    pass
