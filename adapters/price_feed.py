"""What the chain's native token costs in US dollars: fixed by the operator, or asked for."""

import asyncio
import json
import re
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import suppress
from decimal import Decimal
from typing import Any, Protocol

import aiohttp
import structlog

from adapters.rpc import host_of
from saga.errors import StoreUnavailableError
from saga.fees import MAX_USD, MIN_USD

PRICE_SECONDS = 60.0
"""Between two questions. What a price does in a minute is small beside what fees do."""
KNOWN_SECONDS = 7 * 86400
"""How long a price is known, here and in the memory: after a week without a source nobody should
spend by its last word."""
MAX_ANSWER_BYTES = 1024 * 1024
MAX_DIGITS = 60
"""Of a price. The longest that a binary float is ever written with has 17."""

_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,4})?")
_log = structlog.get_logger("saga.price")


class PriceMemory(Protocol):
    """Where replicas keep the last price for each other, and for those that start later."""

    @abstractmethod
    async def keep(self, usd: Decimal) -> None:
        """Raises StoreUnavailableError."""

    @abstractmethod
    async def last(self) -> tuple[str, float] | None:
        """The price as it was written, and its age, seconds. Raises StoreUnavailableError."""


class _NoPriceError(Exception):
    """The source gave none; the text says why, without its URL and without its answer."""


class PriceFeed:
    """The last price, for KNOWN_SECONDS. Create it inside the event loop; `close()` it there.

    A start waits for the first look: a source that takes the connection and does not answer delays
    it by `timeout_seconds`, and so does one that answers too slowly. Nothing else ever waits for
    the source.
    """

    def __init__(
        self,
        *,
        fixed: Decimal | None = None,
        url: str | None = None,
        path: str = "",
        memory: PriceMemory | None = None,
        timeout_seconds: float = 10.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """A `fixed` price, or a `url` whose answer holds one at `path`, or neither: never a price.

        `path`: names and list positions with dots between them; empty: the answer's only number.
        """
        self._usd = fixed
        self._path = path
        self._memory = memory
        self._monotonic = monotonic
        self._known_at: float | None = None
        self._looked = False
        self._warned: bool | None = None
        """While the source fails: whether a price was known when that was last told."""
        self._url = url
        self._session: aiohttp.ClientSession | None = None
        if url is not None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=timeout_seconds),
                headers={"Accept": "application/json"},
            )

    @property
    def usd(self) -> Decimal | None:
        """US dollars for one native token; None when none is known, or none young enough."""
        return None if self._too_old else self._usd

    @property
    def age_seconds(self) -> float | None:
        """Since the source gave `usd`, to whichever replica; None when that is fixed or None."""
        return None if self._too_old else self._age

    @property
    def _age(self) -> float | None:
        return None if self._known_at is None else self._monotonic() - self._known_at

    @property
    def _too_old(self) -> bool:
        age = self._age
        return age is not None and age >= KNOWN_SECONDS

    async def run(self) -> None:
        """Look every PRICE_SECONDS, for ever. A fixed price needs no look, and this still waits."""
        if not self._looked:
            await self.look()
        while True:
            await asyncio.sleep(PRICE_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Ask once. Where that fails, the last price stays: our own, or another replica's newer.

        SIDE EFFECTS: one HTTP request, the memory; a line of the log when things change.
        """
        if self._session is None:
            return
        self._looked = True
        try:
            usd = await self._ask(self._session)
        except _NoPriceError as error:
            await self._recall()
            self._failed(str(error))
            return
        self._usd, self._known_at = usd, self._monotonic()
        if self._warned is not None:
            self._warned = None
            _log.info("price.back", host=self._host, usd=f"{usd:f}")
        if self._memory is not None:
            with suppress(StoreUnavailableError):  # told of by whatever cannot do without Redis
                await self._memory.keep(usd)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    @property
    def _host(self) -> str:
        return host_of(self._url or "")

    async def _ask(self, session: aiohttp.ClientSession) -> Decimal:
        """Raises _NoPriceError."""
        try:
            body = await self._fetch(session)
            # An int of Python's would refuse 5,000 digits with a text of its own.
            answer = json.loads(
                body, parse_float=Decimal, parse_int=Decimal, parse_constant=Decimal
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # The text of some of these holds the URL, and so a key: the type must do.
            raise _NoPriceError(type(error).__name__) from None
        except (ValueError, ArithmeticError, RecursionError):  # no UTF-8, no exponent, too deep
            raise _NoPriceError("the answer is no JSON") from None
        return _price(_found(answer, self._path))

    async def _fetch(self, session: aiohttp.ClientSession) -> bytes:
        """A redirect is not followed: the query may hold a key that is for this host alone."""
        async with session.get(self._url or "", allow_redirects=False) as reply:
            if reply.status != 200:
                raise _NoPriceError(f"HTTP {reply.status}")
            body = bytearray()
            async for chunk in reply.content.iter_any():
                body += chunk
                if len(body) > MAX_ANSWER_BYTES:
                    raise _NoPriceError(f"the answer is larger than {MAX_ANSWER_BYTES} bytes")
            return bytes(body)

    async def _recall(self) -> None:
        """Take the memory's price where it is newer than ours."""
        if self._memory is None:
            return
        try:
            last = await self._memory.last()
            if last is None:
                return
            usd, age = _price(_number(last[0])), last[1]
        except (StoreUnavailableError, _NoPriceError):
            return
        ours = self._age
        if ours is None or age < ours:
            self._usd, self._known_at = usd, self._monotonic() - age

    def _failed(self, why: str) -> None:
        """Say so once, with what it means; and again when it comes to mean something else."""
        usd = self.usd
        if self._warned is (usd is not None):
            return
        self._warned = usd is not None
        if usd is not None:
            effect = f"the price of {self._age or 0:.0f} s ago, {usd:f} USD, stays in use"
        elif self._usd is not None:
            effect = f"the last price is older than {KNOWN_SECONDS // 86400} days and not used any "
            effect += "more: MAX_DEPLOYMENT_COST_USD is not active"
        else:
            effect = "no price was ever known: MAX_DEPLOYMENT_COST_USD is not active"
        _log.warning("price.unavailable", host=self._host, error=why, effect=effect)


def _price(number: Decimal | None) -> Decimal:
    """Raises _NoPriceError for what no token can cost."""
    if number is None:
        raise _NoPriceError("NATIVE_TOKEN_USD_PATH leads to no number")
    if not number.is_finite() or not MIN_USD <= number <= MAX_USD:
        raise _NoPriceError(f"the price is not between {MIN_USD} and {MAX_USD} USD")
    if len(number.as_tuple().digits) > MAX_DIGITS:
        raise _NoPriceError(f"the price has more than {MAX_DIGITS} digits")
    return number


def _found(answer: Any, path: str) -> Decimal | None:
    """The number at the path, else the only one. Raises _NoPriceError when there are several."""
    if not path:
        numbers = list(_numbers(answer))
        if len(numbers) != 1:
            raise _NoPriceError(
                f"the answer holds {len(numbers)} numbers: set NATIVE_TOKEN_USD_PATH to the one"
            )
        return numbers[0]
    for name in path.split("."):
        if isinstance(answer, dict):
            answer = answer.get(name)
        elif isinstance(answer, list) and name.isascii() and name.isdecimal():
            position = int(name[:10])
            answer = answer[position] if position < len(answer) else None
        else:
            return None
    return _number(answer)


def _numbers(answer: Any) -> Iterator[Decimal]:
    """All of them, at any depth. Not recursive: an answer may be nested as deep as JSON allows."""
    rest = [answer]
    while rest:
        each = rest.pop()
        if isinstance(each, dict):
            rest += each.values()
        elif isinstance(each, list):
            rest += each
        elif (number := _number(each)) is not None:
            yield number


def _number(value: Any) -> Decimal | None:
    """A number of JSON, or the text of one; exact."""
    if isinstance(value, Decimal):
        return value
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return Decimal(value)
    return None
