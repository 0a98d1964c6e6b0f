"""One endpoint of several: its line, what is known of it, the chain it must be on."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import structlog

from adapters.rpc import Meter, Request, RpcClient, RpcError
from adapters.rpc_errors import is_sick
from adapters.rpc_health import MAX_COOLDOWN_SECONDS, Circuit, EndpointHealth
from adapters.rpc_ws import WsClient
from saga.errors import ChainUnavailableError

CHECK_CHAIN_SECONDS = 60.0
"""So often the chain id is asked for again: a name may lead to another node tomorrow."""
RESUBSCRIBE_SECONDS = 0.25
"""After a lost subscription; doubles up to MAX_COOLDOWN_SECONDS while it does not last."""
MAX_LAG_BLOCKS = 3
"""A head further behind the best one makes an endpoint a last choice for reads."""
ERROR_COST_SECONDS = 1.0
"""What a lost or sick answer counts, against the latency of a given one."""
ASSUMED_SECONDS = 0.1
"""The latency of an endpoint that has not been measured yet."""
SendOutcome = str | RpcError | ChainUnavailableError

_WEIGHT = 0.2  # of the newest observation: the last ten or so matter

SEND = "eth_sendRawTransaction"
PROBE: tuple[Request, Request] = (("eth_chainId", []), ("eth_blockNumber", []))
# Latency is measured by these alone: they cost every node the same, whatever else is asked of it.
_LIGHT = {"eth_chainId", "eth_blockNumber"}

_log = structlog.get_logger("saga.rpc")


class Endpoint:
    """`best_head` is the best head of all endpoints, by which lag is judged."""

    def __init__(
        self,
        url: str,
        *,
        timeout_seconds: float,
        meter: Meter,
        monotonic: Callable[[], float],
        best_head: Callable[[], int],
    ) -> None:
        self._monotonic = monotonic
        self._best_head = best_head
        self._socket = url.lower().startswith("ws")
        line = WsClient if self._socket else RpcClient
        self._line: WsClient | RpcClient = line(url, timeout_seconds=timeout_seconds, meter=meter)
        self._probe: asyncio.Task[ChainUnavailableError | None] | None = None
        self._expected: int | None = None
        self._latency: float | None = None
        self._error_rate = 0.0
        self._checked_at = float("-inf")
        self.circuit = Circuit(monotonic)
        self.chain_id: int | None = None
        self.refused: str | None = None
        self.head: int | None = None
        self.lag = 0

    @property
    def host(self) -> str:
        return self._line.host

    @property
    def ready(self) -> bool:
        """May be asked without a probe: circuit closed, known to be on our chain."""
        on_our_chain = self._expected is None or self.chain_id == self._expected
        return self.refused is None and self.circuit.until is None and on_our_chain

    @property
    def usable(self) -> bool:
        return self.ready and self.lag <= MAX_LAG_BLOCKS

    @property
    def cost(self) -> float:
        """What a question may take here, seconds."""
        latency = ASSUMED_SECONDS if self._latency is None else self._latency
        return latency + ERROR_COST_SECONDS * self._error_rate

    @property
    def pushing(self) -> bool:
        """Whether heads come in by subscription, and are worth something."""
        return self.usable and isinstance(self._line, WsClient) and self._line.subscribed

    @property
    def probe_due(self) -> bool:
        """Whether the cooldown is over, or the chain id was asked for long ago or never."""
        if self.ready:
            return self._monotonic() - self._checked_at >= CHECK_CHAIN_SECONDS
        return self.refused is None and self.circuit.state != "open"

    def health(self) -> EndpointHealth:
        return EndpointHealth(
            host=self.host,
            kind="ws" if self._socket else "http",
            usable=self.usable,
            refused=self.refused,
            circuit=self.circuit.state,
            latency_seconds=self._latency,
            error_rate=self._error_rate,
            head=self.head,
            lag=self.lag,
        )

    async def call(self, method: str, *params: Any) -> Any:
        """As `Rpc.call`, and learns from the answer."""
        began = self._begun()
        try:
            answer = await self._line.call(method, *params)
        except RpcError as error:
            self._learn([(method, [*params])], [error], began)
            raise
        except ChainUnavailableError:
            self._failed()
            raise
        self._learn([(method, [*params])], [answer], began)
        return answer

    async def batch(self, requests: Sequence[Request]) -> list[Any]:
        """As `Rpc.batch`, and learns from the answers."""
        began = self._begun()
        try:
            answers = await self._line.batch(requests)
        except ChainUnavailableError:
            self._failed()
            raise
        self._learn(requests, answers, began)
        return answers

    async def send(self, raws: Sequence[str]) -> list[SendOutcome]:
        """The outcome of each signed transaction, in one request; a probe goes first if need be.

        What a node of another chain says of our bytes would be believed.
        """
        answers: list[Any]
        try:
            await self.prepare()
            if len(raws) > 1:
                answers = await self.batch([(SEND, [raw]) for raw in raws])
            else:  # some nodes take no batch
                answers = [await self.call(SEND, *raws)]
        except RpcError as error:
            return [error]
        except ChainUnavailableError as error:
            return [error] * len(raws)
        return [each if isinstance(each, RpcError) else str(each) for each in answers]

    async def prepare(self) -> None:
        """Probe an endpoint that is not ready. Raises ChainUnavailableError if it is no good."""
        if not self.ready and (error := await self.probe()) is not None:
            raise error

    async def probe(self) -> ChainUnavailableError | None:
        """Ask for chain id and head, at most once at a time; None: it may be used.

        Whoever comes while a probe is out waits for that one.
        """
        if self._probe is None or self._probe.done():
            self._probe = asyncio.create_task(self._probed())
        return await asyncio.shield(self._probe)

    async def look(self) -> None:
        """A probe if one is due, else ask for the head: for what is learned from the answer."""
        with suppress(RpcError, ChainUnavailableError):
            await (self.probe() if self.probe_due else self.call("eth_blockNumber"))

    async def _probed(self) -> ChainUnavailableError | None:
        try:
            found = (await self.batch(PROBE))[0]
        except ChainUnavailableError as error:
            return error
        if not isinstance(found, str):
            self._failed()
            return ChainUnavailableError(f"{self.host} eth_chainId: {found}")
        if self.circuit.until is not None:
            _log.info("rpc.circuit_closed", host=self.host)
        self.circuit.close()
        return None

    def expect(self, chain_id: int) -> None:
        """Refuse this endpoint for ever once it is seen on another chain."""
        self._expected = chain_id
        if self.chain_id not in (None, chain_id):
            self.refused = (
                f"{self.host} is refused for ever: on chain {self.chain_id}, not {chain_id}"
            )
            _log.error(
                "rpc.endpoint_refused", host=self.host, chain_id=self.chain_id, expected=chain_id
            )

    def judge_lag(self) -> None:
        if self.head is not None:
            self.lag = max(0, self._best_head() - self.head)

    async def follow(self, on_head: Callable[[], None]) -> None:
        """Call `on_head` at each head that the node pushes, over and over subscribed.

        Returns when the endpoint is refused, or cannot push.
        """
        if not isinstance(line := self._line, WsClient):
            return

        def pushed() -> None:
            if self.refused is None:
                self._see_head(line.head)
                on_head()

        pause = RESUBSCRIBE_SECONDS
        while self.refused is None:
            began = self._monotonic()
            with suppress(ChainUnavailableError):
                await line.heads(pushed)
            lasted = self._monotonic() - began > pause
            pause = RESUBSCRIBE_SECONDS if lasted else min(2 * pause, MAX_COOLDOWN_SECONDS)
            await asyncio.sleep(pause)

    async def close(self) -> None:
        if self._probe is not None:
            self._probe.cancel()
            await asyncio.gather(self._probe, return_exceptions=True)
        await self._line.close()

    def _begun(self) -> float:
        """Now. Raises ChainUnavailableError when nothing may be asked here any more."""
        if self.refused is not None:
            raise ChainUnavailableError(self.refused)
        return self._monotonic()

    def _failed(self) -> None:
        self._error_rate += _WEIGHT * (1 - self._error_rate)
        before = self.circuit.state
        self.circuit.failed()
        if before == "closed" and self.circuit.until is not None:
            _log.warning("rpc.circuit_opened", host=self.host)

    def _learn(self, requests: Sequence[Request], answers: Sequence[Any], began: float) -> None:
        """From an answer: latency, head, chain. Raises ChainUnavailableError on another chain."""
        self.circuit.answered()  # a sick node is there: what is wrong may be the question
        reads = [a for (method, _), a in zip(requests, answers, strict=True) if method != SEND]
        if sick(reads):
            self._error_rate += _WEIGHT * (1 - self._error_rate)
        else:
            self._error_rate -= _WEIGHT * self._error_rate
        if not sick(reads) and all(method in _LIGHT for method, _ in requests):
            took, known = self._monotonic() - began, self._latency
            self._latency = took if known is None else known + _WEIGHT * (took - known)
        for (method, params), answer in zip(requests, answers, strict=True):
            if method == "eth_chainId" and (found := _number(answer)) is not None:
                self.chain_id, self._checked_at = found, self._monotonic()
                if self._expected is not None and self.refused is None:
                    self.expect(self._expected)
            elif method == "eth_blockNumber":
                self._see_head(_number(answer))
            elif method == "eth_getBlockByNumber" and params[:1] == ["latest"]:
                self._see_head(_number(answer.get("number") if isinstance(answer, dict) else None))
        if self.refused is not None:
            raise ChainUnavailableError(self.refused)

    def _see_head(self, number: int | None) -> None:
        if number is not None:
            self.head = number
            self.judge_lag()


def sick(answers: Sequence[Any]) -> bool:
    """Whether one of the answers to reads is a node's failure."""
    return any(isinstance(answer, RpcError) and is_sick(answer) for answer in answers)


def _number(answer: Any) -> int | None:
    """A hex quantity, None when it is none."""
    try:
        return int(answer, 16)
    except (TypeError, ValueError):
        return None
