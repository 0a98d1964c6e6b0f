"""Several endpoints of one chain as one: reads from the best, transactions to all.

A read that gets no answer, or a sick node's, is asked of the next endpoint. An endpoint that fails
several times in a row is left alone for a while (its circuit is open) and probed before it is used
again; one that has fallen behind is a last choice; one on another chain is refused for ever. That
one node has no receipt proves nothing: `everywhere` asks them all.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from adapters.rpc import Meter, Request, Rpc, RpcError, no_meter
from adapters.rpc_endpoint import SEND, Endpoint, SendOutcome, sick
from adapters.rpc_health import EndpointHealth
from adapters.rpc_ranking import believed_head, ranked
from adapters.rpc_send import until_taken
from saga.errors import ChainUnavailableError

PROBE_SECONDS = 1.0
"""So often the endpoints with an open circuit are looked at."""
LOOK_SECONDS = 5.0
"""So often every endpoint is asked for its head."""
ROUND_SECONDS = 2.0
"""What takes longer goes on in the background: heads are compared as of the same moment."""

_T = TypeVar("_T")


class RpcPool(Rpc):
    """Create it inside the event loop; `run()` is its task, `close()` ends all that it began."""

    def __init__(
        self,
        urls: Sequence[str],
        *,
        expected_chain: int | None = None,
        timeout_seconds: float = 10.0,
        meter: Meter = no_meter,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        if not urls:
            raise ValueError("an endpoint is needed")
        self._endpoints = [
            Endpoint(
                url,
                timeout_seconds=timeout_seconds,
                meter=meter,
                monotonic=monotonic,
                best_head=self._best_head,
            )
            for url in urls
        ]
        self._monotonic = monotonic
        self._current = self._endpoints[0]
        self._tasks: set[asyncio.Task[Any]] = set()
        self._chain: int | None = None
        if expected_chain is not None:
            self._expect(expected_chain)
        self.on_head: Callable[[], None] | None = None
        """Called at each head that an endpoint pushes."""

    @property
    def host(self) -> str:
        ranking = self._ranked()
        return (ranking[0] if ranking else self._current).host

    @property
    def endpoint_count(self) -> int:
        """Of those that are not refused."""
        return len(self._live())

    @property
    def pushing(self) -> bool:
        """Whether heads come in by at least one subscription."""
        return any(endpoint.pushing for endpoint in self._endpoints)

    def health(self) -> list[EndpointHealth]:
        """Of each endpoint, in configured order."""
        return [endpoint.health() for endpoint in self._endpoints]

    async def call(self, method: str, *params: Any) -> Any:
        """As `Rpc.call`, from the best endpoint that answers.

        `eth_sendRawTransaction` goes to all endpoints; the best of their answers counts.
        """
        if method == SEND:
            (outcome,) = await self._sent([(method, [*params])])
        else:
            (outcome,) = await self._read(lambda endpoint: _one(endpoint, method, params))
        if isinstance(outcome, RpcError):
            raise outcome
        return outcome

    async def batch(self, requests: Sequence[Request]) -> list[Any]:
        """As `Rpc.batch`, from the best endpoint that answers.

        Transactions go to all endpoints. Raises ValueError when they are mixed with reads.
        """
        if any(method == SEND for method, _ in requests):
            return await self._sent(requests)
        return await self._read(lambda endpoint: endpoint.batch(requests))

    async def everywhere(self, requests: Sequence[Request]) -> list[list[Any]]:
        """The answers of each endpoint that answers, lagging ones included, in configured order.

        Raises ChainUnavailableError when none does: no answer is no absence.
        """
        asked = [endpoint for endpoint in self._endpoints if endpoint.ready]
        if not asked:
            return [await self.batch(requests)]
        answers = await asyncio.gather(*(_caught(each.batch(requests)) for each in asked))
        found = [each for each in answers if not isinstance(each, ChainUnavailableError)]
        if not found:
            raise self._unavailable([e for e in answers if isinstance(e, ChainUnavailableError)])
        return found

    async def broadcast(self, raws: Sequence[str]) -> list[list[SendOutcome]]:
        """Send signed transactions to all endpoints at once, in order at each.

        For each of `raws` one outcome per endpoint that is not refused. Endpoints whose circuit is
        open are tried too, but not waited for while there are others, nor is a slow one for long
        once another has taken all; that stands in their outcome, and they go on in the background.
        Raises ChainUnavailableError when all are refused.
        """
        live = self._live()
        if not live:
            raise self._unavailable([])
        if not raws:
            return []
        ready = [endpoint.ready for endpoint in live]
        tasks = [self._begin(endpoint.send(raws)) for endpoint in live]
        awaited = [task for task, now in zip(tasks, ready, strict=True) if now] or tasks
        await until_taken(tasks, awaited)
        columns = [
            task.result()
            if task.done()
            else [ChainUnavailableError(f"{endpoint.host} {SEND}: not waited for")] * len(raws)
            for endpoint, task in zip(live, tasks, strict=True)
        ]
        return [list(row) for row in zip(*columns, strict=True)]

    async def check_chain(self) -> int:
        """Ask every endpoint for its chain id, refuse those on another chain, return the id.

        That of the first endpoint that answers counts if none is expected. Raises
        ChainUnavailableError when none answers, or all are refused.
        """
        live = self._live()
        found = await asyncio.gather(*(endpoint.probe() for endpoint in live))
        answered = [each for each, error in zip(live, found, strict=True) if error is None]
        if self._chain is None and answered:
            chain_id = answered[0].chain_id
            assert chain_id is not None  # noqa: S101 - a probe asks for it
            self._expect(chain_id)
        _compare(answered)
        if self._chain is None or not any(endpoint.ready for endpoint in answered):
            raise self._unavailable([error for error in found if error is not None])
        return self._chain

    async def run(self) -> None:
        """Keep health fresh, probe, follow pushed heads: until cancelled, whatever nodes do."""
        following = [self._begin(each.follow(self._pushed)) for each in self._endpoints]
        try:
            looked_at = float("-inf")
            while True:
                if self._monotonic() - looked_at >= LOOK_SECONDS:
                    looked_at = self._monotonic()
                    await self.look_round()
                else:
                    await self.probe_due()
                await asyncio.sleep(PROBE_SECONDS)
        finally:
            for task in following:
                task.cancel()

    async def probe_due(self) -> None:
        """Probe the endpoints whose time has come: open circuits, chain ids a minute old."""
        await self._look([each for each in self._live() if each.probe_due])

    async def look_round(self) -> None:
        """The same, and ask all others for their head if there are several."""
        live = self._live()
        await self._look([e for e in live if e.probe_due or (len(live) > 1 and e.ready)])
        for endpoint in self._endpoints:
            if endpoint.refused is not None:
                await endpoint.close()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(endpoint.close() for endpoint in self._endpoints))

    async def _read(self, question: Callable[[Endpoint], Awaitable[list[Any]]]) -> list[Any]:
        """The first answer: of the best, of the others, and at last of one that must be probed.

        Answers of sick nodes are a last choice, the first of them: perhaps it is the question.
        """
        errors: list[ChainUnavailableError] = []
        poor: list[list[Any]] = []
        ranking = self._ranked()
        for endpoint in ranking:
            if endpoint.refused is None:
                try:
                    answers = await question(endpoint)
                except ChainUnavailableError as error:
                    errors.append(error)
                else:
                    if not sick(answers):
                        return answers
                    poor.append(answers)
        if poor:
            return poor[0]
        waiting = [each for each in self._live() if each not in ranking]
        if waiting:
            endpoint = min(waiting, key=lambda each: each.circuit.until or 0.0)
            try:
                await endpoint.prepare()
                return await question(endpoint)
            except ChainUnavailableError as error:
                errors.append(error)
        raise self._unavailable(errors)

    async def _sent(self, requests: Sequence[Request]) -> list[Any]:
        """`broadcast` as a batch: an endpoint that took it counts more than one that did not."""
        if any(method != SEND for method, _ in requests):
            raise ValueError("reads and transactions in one batch")
        results: list[Any] = []
        for outcomes in await self.broadcast([params[0] for _, params in requests]):
            answers = [each for each in outcomes if not isinstance(each, ChainUnavailableError)]
            if not answers:
                raise self._unavailable([e for e in outcomes if isinstance(e, Exception)])
            results.append(next((each for each in answers if isinstance(each, str)), answers[0]))
        return results

    def _live(self) -> list[Endpoint]:
        return [endpoint for endpoint in self._endpoints if endpoint.refused is None]

    def _ranked(self) -> list[Endpoint]:
        """As `ranked`; the best becomes the current one, unless it lags."""
        found = ranked(self._endpoints, self._current)
        if found and found[0].usable:
            self._current = found[0]
        return found

    def _best_head(self) -> int:
        return believed_head(e.head for e in self._endpoints if e.ready and e.head is not None)

    def _expect(self, chain_id: int) -> None:
        self._chain = chain_id
        for endpoint in self._live():
            endpoint.expect(chain_id)

    async def _look(self, endpoints: Sequence[Endpoint]) -> None:
        looks = {self._begin(each.look()): each for each in endpoints}
        if looks:
            done, _ = await asyncio.wait(looks, timeout=ROUND_SECONDS)
            _compare([looks[task] for task in done])

    def _begin(self, work: Coroutine[Any, Any, _T]) -> "asyncio.Task[_T]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _pushed(self) -> None:
        if self.on_head is not None:
            self.on_head()

    def _unavailable(self, errors: Sequence[Exception]) -> ChainUnavailableError:
        """One error for all; without any, why the endpoints are refused."""
        texts = [str(error) for error in errors]
        texts = texts or [each.refused for each in self._endpoints if each.refused is not None]
        return ChainUnavailableError("; ".join(dict.fromkeys(texts)))


async def _one(endpoint: Endpoint, method: str, params: Sequence[Any]) -> list[Any]:
    """A call as a batch of one."""
    try:
        return [await endpoint.call(method, *params)]
    except RpcError as error:
        return [error]


async def _caught(work: Awaitable[_T]) -> _T | ChainUnavailableError:
    try:
        return await work
    except ChainUnavailableError as error:
        return error


def _compare(endpoints: Sequence[Endpoint]) -> None:
    """Judge heads that were seen at the same time; one by one, the first came too early."""
    for endpoint in endpoints:
        endpoint.judge_lag()
