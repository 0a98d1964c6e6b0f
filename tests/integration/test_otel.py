"""Laws of traces, as an OTLP receiver gets them over the wire, and of the log lines beside them."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
import pytest
import structlog
from structlog.testing import LogCapture

from adapters.otel import OtelTelemetry, build_telemetry
from adapters.otel_export import SparseHandler
from saga.actions import Advance, Fail, Skip
from saga.errors import LeaseLostError, StoreUnavailableError
from saga.messages import identify
from saga.model import (
    Attempt,
    Deployment,
    ErrorClass,
    Intent,
    Lease,
    Receipt,
    Registration,
    Saga,
    State,
    Step,
)
from tests.support.otlp import OtlpHttpReceiver, OtlpReceiver, ReceivedSpan

QUEUE = "hokusai:model_ready_queue"
PRODUCER_TRACE, PRODUCER_SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TOKEN = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
RAW = "0x02f8" + "1c" * 150
MESSAGE: dict[str, Any] = {
    "model_id": "model_1",
    "mlflow_run_id": "run_7",
    "tags": {"note": "mine"},
}
RECEIPT = Receipt(
    tx_hash="0x" + "ab" * 32,
    block_number=17,
    block_hash="0x" + "cd" * 32,
    block_time=1_700_000_000,
    sender=TOKEN,
    gas_used=654_321,
    gas_price=1,
)
INTENT = Intent(
    step=Step.DEPLOY,
    sender=TOKEN,
    chain_id=31337,
    nonce=5,
    to=TOKEN,
    predicted=TOKEN,
    attempts=(Attempt(hash=RECEIPT.tx_hash, raw=RAW, max_fee=2, max_priority_fee=1, gas=3),),
)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No OTEL_* from outside; the SDK's loggers as they were found."""
    for name in ("TRACES_ENDPOINT", "ENDPOINT", "TRACES_PROTOCOL", "PROTOCOL"):
        monkeypatch.delenv(f"OTEL_EXPORTER_OTLP_{name}", raising=False)
    for name in ("SDK_DISABLED", "TRACES_EXPORTER", "SERVICE_NAME", "RESOURCE_ATTRIBUTES"):
        monkeypatch.delenv(f"OTEL_{name}", raising=False)
    logger = logging.getLogger("opentelemetry")
    handlers, level, propagate = list(logger.handlers), logger.level, logger.propagate
    yield
    logger.handlers[:], logger.level, logger.propagate = handlers, level, propagate


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as running:
        yield running


@pytest.fixture
def lines() -> Iterator[list[dict[str, Any]]]:
    """The log lines, with the context that is bound while they are written."""
    capture = LogCapture()
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, capture])
    yield capture.entries  # type: ignore[misc]  # its mappings are dicts
    structlog.reset_defaults()


@asynccontextmanager
async def process(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, worker: str = "worker-1"
) -> AsyncIterator[OtelTelemetry]:
    """The telemetry of one process, from its start to its orderly end."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    telemetry = build_telemetry(inbound_queue=QUEUE, worker=worker)
    try:
        yield telemetry
    finally:
        await telemetry.shutdown(5.0)


def a_saga(telemetry: OtelTelemetry, message: dict[str, Any] | None = None, **fields: Any) -> Saga:
    """As the store gives it back after admission."""
    raw = msgspec.json.encode(message or MESSAGE)
    identity = identify(raw)
    saga = Saga(
        id=identity.saga_id,
        state=State.RECEIVED,
        version=1,
        lease=Lease(owner="worker-1.1", fence=1),
        message=raw,
        created_ms=1_700_000_000_123,
        updated_ms=1_700_000_000_123,
        message_id=identity.message_id,
        model_id=identity.model_id,
        traceparent=telemetry.traceparent(identity),
    )
    return msgspec.structs.replace(saga, **fields)


def moved(saga: Saga, to: State, **fields: Any) -> Saga:
    return msgspec.structs.replace(saga, state=to, version=saga.version + 1, **fields)


def step(telemetry: OtelTelemetry, saga: Saga, to: State, action: Any, **fields: Any) -> Saga:
    """One attempt that moves the saga."""
    with telemetry.attempt(saga) as span:
        after = moved(saga, to, **fields)
        span.outcome(saga, after, action)
    return after


def only(spans: list[ReceivedSpan], name: str) -> ReceivedSpan:
    (found,) = [span for span in spans if span.name == name]
    return found


async def received(receiver: OtlpReceiver | OtlpHttpReceiver, count: int) -> list[ReceivedSpan]:
    return await asyncio.to_thread(receiver.wait_for, lambda spans: len(spans) >= count)


async def test_whole_saga(monkeypatch: pytest.MonkeyPatch, receiver: OtlpReceiver) -> None:
    """A saga is one trace: a root, its steps and its end, all but the root children of it."""
    async with process(monkeypatch, receiver.endpoint) as telemetry:
        saga = a_saga(telemetry)
        telemetry.admitted(saga)
        saga = step(telemetry, saga, State.VALIDATED, Advance(model_id="model_1"))
        deployment = Deployment(token=TOKEN, receipt=RECEIPT)
        saga = step(
            telemetry,
            saga,
            State.TOKEN_DEPLOYED,
            Advance(deployment=deployment),
            deployment=deployment,
            deploy=INTENT,
        )
        registration = Registration(receipt=RECEIPT, adopted=True)
        saga = step(telemetry, saga, State.REGISTERED, Advance(registration=registration))
        saga = step(telemetry, saga, State.PUBLISHED, Advance(event=b"{}"))
        saga = step(telemetry, saga, State.ACKED, Advance(ack=True))
        telemetry.ended(saga)
    spans = await received(receiver, 7)
    root = only(spans, f"process {QUEUE}")
    assert root.parent == ""
    assert root.kind == "CONSUMER"
    assert {span.trace_id for span in spans} == {root.trace_id}
    assert {span.parent for span in spans if span is not root} == {root.span_id}
    assert len({span.span_id for span in spans}) == 7
    assert {span.status for span in spans} == {"UNSET"}
    assert [span.name for span in spans[1:]] == [
        "saga.step VALIDATED",
        "saga.step TOKEN_DEPLOYED",
        "saga.step REGISTERED",
        "saga.step PUBLISHED",
        "saga.step ACKED",
        "saga.end",
    ]
    assert all(root.start_ns <= span.start_ns <= span.end_ns for span in spans)
    assert saga.traceparent == f"00-{root.trace_id}-{root.span_id}-01"


async def test_root_attributes(monkeypatch: pytest.MonkeyPatch, receiver: OtlpReceiver) -> None:
    """The root says which queue and which message, by the messaging conventions."""
    message = {"message_type": "model_ready_to_deploy", "message_id": "m-1", "payload": MESSAGE}
    async with process(monkeypatch, receiver.endpoint) as telemetry:
        saga = a_saga(telemetry, message)
        telemetry.admitted(saga)
    (root,) = await received(receiver, 1)
    assert root.attributes == {
        "messaging.system": "redis",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": QUEUE,
        "messaging.message.id": "m-1",
        "saga.id": saga.id,
        "saga.phase": "start",
    }
    assert root.end_ns - root.start_ns <= 1_000


async def test_step_attributes(monkeypatch: pytest.MonkeyPatch, receiver: OtlpReceiver) -> None:
    """A deployment's span says which attempt of whom it was, and what the chain holds by it."""
    deployment = Deployment(token=TOKEN, receipt=RECEIPT)
    async with process(monkeypatch, receiver.endpoint) as telemetry:
        saga = a_saga(telemetry, state=State.VALIDATED, attempts=2, resumed=True)
        step(
            telemetry,
            saga,
            State.TOKEN_DEPLOYED,
            Advance(deployment=deployment),
            deployment=deployment,
            deploy=INTENT,
        )
    (span,) = await received(receiver, 1)
    assert span.attributes == {
        "saga.id": saga.id,
        "saga.attempt": 3,
        "saga.from": "VALIDATED",
        "saga.to": "TOKEN_DEPLOYED",
        "saga.fence": 1,
        "saga.worker": "worker-1",
        "saga.resumed": True,
        "saga.model_id": "model_1",
        "saga.tx.hash": RECEIPT.tx_hash,
        "saga.tx.block_number": 17,
        "saga.tx.gas_used": 654_321,
        "saga.tx.nonce": 5,
        "saga.chain_id": 31337,
        "saga.adopted": False,
        "saga.token": TOKEN,
    }


async def test_same_ids_everywhere(monkeypatch: pytest.MonkeyPatch, receiver: OtlpReceiver) -> None:
    """Two processes that know nothing of each other give a saga's spans to one trace."""
    async with process(monkeypatch, receiver.endpoint, "worker-1") as first:
        saga = a_saga(first)
        first.admitted(saga)
        after = step(first, saga, State.VALIDATED, Advance())
    async with process(monkeypatch, receiver.endpoint, "worker-2") as second:
        assert second.traceparent(identify(saga.message)) == saga.traceparent
        step(second, after, State.TOKEN_DEPLOYED, Advance())
    root, *steps = await received(receiver, 3)
    assert {span.trace_id for span in steps} == {root.trace_id}
    assert {span.parent for span in steps} == {root.span_id}
    assert [span.resource["service.instance.id"] for span in steps] == ["worker-1", "worker-2"]


async def test_ids_differ_between_sagas(
    monkeypatch: pytest.MonkeyPatch, receiver: OtlpReceiver
) -> None:
    """Two sagas have two traces; no id is zero."""
    async with process(monkeypatch, receiver.endpoint) as telemetry:
        for model in ("model_1", "model_2"):
            telemetry.admitted(a_saga(telemetry, MESSAGE | {"model_id": model}))
    one, two = await received(receiver, 2)
    assert one.trace_id != two.trace_id
    assert one.span_id != two.span_id
    assert int(one.trace_id, 16)
    assert int(one.span_id, 16)


async def test_reopened_saga(monkeypatch: pytest.MonkeyPatch, receiver: OtlpReceiver) -> None:
    """A saga that is reopened goes on in its trace, without a second root."""
    async with process(monkeypatch, receiver.endpoint) as telemetry:
        saga = a_saga(telemetry)
        telemetry.admitted(saga)
        again = moved(saga, State.RECEIVED, lease=Lease(owner="worker-1.2", fence=2), resumed=True)
        telemetry.admitted(again)
        step(telemetry, again, State.VALIDATED, Advance())
    spans = await received(receiver, 2)
    assert [span.name for span in spans] == [f"process {QUEUE}", "saga.step VALIDATED"]


async def test_takeover(monkeypatch: pytest.MonkeyPatch, receiver: OtlpReceiver) -> None:
    """The root that may have died with a worker is sent again by the next, equal to the byte."""
    async with process(monkeypatch, receiver.endpoint, "worker-1") as first:
        saga = a_saga(first)
        first.admitted(saga)
    async with process(monkeypatch, receiver.endpoint, "worker-2") as second:
        taken = msgspec.structs.replace(
            saga, lease=Lease(owner="worker-2.1", fence=2), takeovers=1, resumed=True
        )
        step(second, taken, State.VALIDATED, Advance())
    first_root, second_root, successor = await received(receiver, 3)
    assert first_root.wire == second_root.wire
    assert (successor.parent, successor.attributes["saga.fence"]) == (first_root.span_id, 2)


async def test_attempt_ids(monkeypatch: pytest.MonkeyPatch, receiver: OtlpReceiver) -> None:
    """An attempt's span id follows from saga, version and fence: another of any is another id."""
    async with process(monkeypatch, receiver.endpoint) as telemetry:
        saga = a_saga(telemetry)
        later = msgspec.structs.replace(saga, version=2)
        fenced = msgspec.structs.replace(saga, lease=Lease(owner="worker-1.9", fence=2))
        for each in (saga, saga, later, fenced):
            with telemetry.attempt(each):
                pass
    same, again, *others = await received(receiver, 4)
    assert same.span_id == again.span_id
    assert len({span.span_id for span in (same, *others)}) == 3


async def test_producer_context(monkeypatch: pytest.MonkeyPatch, receiver: OtlpReceiver) -> None:
    """With a producer's context the saga is in its trace: parent of, and linked from, the root."""
    message = MESSAGE | {"traceparent": f"00-{PRODUCER_TRACE}-{PRODUCER_SPAN}-01"}
    async with process(monkeypatch, receiver.endpoint) as telemetry:
        saga = a_saga(telemetry, message)
        telemetry.admitted(saga)
        step(telemetry, saga, State.VALIDATED, Advance())
    root, child = await received(receiver, 2)
    assert (root.trace_id, root.parent) == (PRODUCER_TRACE, PRODUCER_SPAN)
    assert root.links == ((PRODUCER_TRACE, PRODUCER_SPAN),)
    assert (child.trace_id, child.parent) == (PRODUCER_TRACE, root.span_id)
    assert saga.traceparent == f"00-{PRODUCER_TRACE}-{root.span_id}-01"


@pytest.mark.parametrize(
    "traceparent", ["", "nonsense", f"00-{'0' * 32}-{PRODUCER_SPAN}-01", "ff-" + "1" * 49]
)
def test_invalid_producer_context(traceparent: str) -> None:
    """A producer's context that is none is as good as no context."""
    telemetry = build_telemetry(inbound_queue=QUEUE, worker="worker-1")
    identity = identify(msgspec.json.encode(MESSAGE))
    told = msgspec.structs.replace(identity, traceparent=traceparent)
    assert telemetry.traceparent(told) == telemetry.traceparent(identity)


async def test_fail(monkeypatch: pytest.MonkeyPatch, receiver: OtlpReceiver) -> None:
    """A failed saga's last step and end are errors that name the class, and quote no message."""
    async with process(monkeypatch, receiver.endpoint) as telemetry:
        saga = a_saga(telemetry)
        fail = Fail(ErrorClass.INVALID, "token_symbol is 'quoted'")
        dead = step(telemetry, saga, State.DEAD_LETTERED, fail, error_class="invalid")
        telemetry.ended(dead)
    last, end = await received(receiver, 2)
    for span in (last, end):
        assert (span.status, span.description) == ("ERROR", "invalid")
        assert span.attributes["saga.error_class"] == "invalid"
        assert b"quoted" not in span.wire
    assert last.name == "saga.step DEAD_LETTERED"
    assert end.attributes["saga.state"] == "DEAD_LETTERED"


async def test_skip(monkeypatch: pytest.MonkeyPatch, receiver: OtlpReceiver) -> None:
    """A skipped saga is no error."""
    async with process(monkeypatch, receiver.endpoint) as telemetry:
        skip = Skip(ErrorClass.CRITERIA, "improvement_percentage is 0")
        telemetry.ended(step(telemetry, a_saga(telemetry), State.SKIPPED, skip))
    last, end = await received(receiver, 2)
    assert (last.status, end.status) == ("UNSET", "UNSET")
    assert last.attributes["saga.error_class"] == "criteria"


async def test_end(monkeypatch: pytest.MonkeyPatch, receiver: OtlpReceiver) -> None:
    """The end says how it ended, how long all of it took, and which token there is."""
    async with process(monkeypatch, receiver.endpoint) as telemetry:
        acked = a_saga(
            telemetry,
            state=State.ACKED,
            created_ms=int(time.time() * 1000) - 5_000,
            deployment=Deployment(token=TOKEN, receipt=RECEIPT),
        )
        telemetry.ended(acked)
    (end,) = await received(receiver, 1)
    assert 5.0 <= float(end.attributes["saga.seconds"]) < 60.0
    assert (end.attributes["saga.state"], end.attributes["saga.token"]) == ("ACKED", TOKEN)
    assert end.start_ns == end.end_ns


async def test_retry_and_hold(monkeypatch: pytest.MonkeyPatch, receiver: OtlpReceiver) -> None:
    """A retry is an error that says why; a hold is none. Both know the transaction in flight."""
    reason = f"https://u:p@node/v3/key: {RAW} refused"
    async with process(monkeypatch, receiver.endpoint) as telemetry:
        saga = a_saga(telemetry, state=State.VALIDATED, deploy=INTENT)
        for hold in (False, True):
            with telemetry.attempt(saga) as span:
                span.retry(saga, reason, hold="node" if hold else None)
    retry, held = await received(receiver, 2)
    assert retry.name == "saga.step after VALIDATED (retry)"
    assert (retry.status, retry.description) == ("ERROR", "<url> 0x02f81c…*** refused")
    assert held.name == "saga.step after VALIDATED (held)"
    assert held.status == "UNSET"
    for sent in (retry, held):
        assert sent.attributes["saga.tx.hash"] == RECEIPT.tx_hash
        assert sent.attributes["saga.tx.nonce"] == 5


async def test_lease_lost(monkeypatch: pytest.MonkeyPatch, receiver: OtlpReceiver) -> None:
    """An attempt whose lease was lost leaves no span, whatever it had said before."""
    async with process(monkeypatch, receiver.endpoint) as telemetry:
        saga = a_saga(telemetry, state=State.VALIDATED)
        with suppress(LeaseLostError), telemetry.attempt(saga) as span:
            span.retry(saga, "node said no")
            raise LeaseLostError("FENCED")
        telemetry.ended(saga)
    assert [span.name for span in await received(receiver, 1)] == ["saga.end"]


@pytest.mark.parametrize(
    ("error", "word", "status"),
    [
        (StoreUnavailableError("redis://u:p@h"), "store unavailable", "ERROR"),
        (ZeroDivisionError("a bug"), "crashed", "ERROR"),
        (asyncio.CancelledError(), "interrupted", "UNSET"),
    ],
)
async def test_exceptions(
    monkeypatch: pytest.MonkeyPatch,
    receiver: OtlpReceiver,
    error: BaseException,
    word: str,
    status: str,
) -> None:
    """An exception passes through, and its span says what kind it was, not what it said."""
    async with process(monkeypatch, receiver.endpoint) as telemetry:
        with pytest.raises(type(error)), telemetry.attempt(a_saga(telemetry)):
            raise error
    (span,) = await received(receiver, 1)
    assert (span.name, span.status) == (f"saga.step after RECEIVED ({word})", status)
    assert b"redis://" not in span.wire


async def test_no_secrets(monkeypatch: pytest.MonkeyPatch, receiver: OtlpReceiver) -> None:
    """No span holds what the message says beyond its ids, nor signed bytes."""
    deployment = Deployment(token=TOKEN, receipt=RECEIPT)
    async with process(monkeypatch, receiver.endpoint) as telemetry:
        saga = a_saga(telemetry, deploy=INTENT)
        telemetry.admitted(saga)
        advance = Advance(deployment=deployment, event=saga.message)
        saga = step(telemetry, saga, State.TOKEN_DEPLOYED, advance, deployment=deployment)
        telemetry.ended(saga)
    wire = b"".join(span.wire for span in await received(receiver, 3))
    assert b"mine" not in wire
    assert b"0x02f8" not in wire


async def test_resource(monkeypatch: pytest.MonkeyPatch, receiver: OtlpReceiver) -> None:
    """Spans name service, worker and host; OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win."""
    async with process(monkeypatch, receiver.endpoint, "worker-7") as telemetry:
        telemetry.ended(a_saga(telemetry))
    monkeypatch.setenv("OTEL_SERVICE_NAME", "deployer")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test,host.name=h1")
    async with process(monkeypatch, receiver.endpoint, "worker-7") as telemetry:
        telemetry.ended(a_saga(telemetry))
    plain, named = [span.resource for span in await received(receiver, 2)]
    assert plain["service.name"] == "contract-deploy-listener"
    assert plain["service.instance.id"] == named["service.instance.id"] == "worker-7"
    assert plain["host.name"]
    assert (named["service.name"], named["host.name"]) == ("deployer", "h1")
    assert named["deployment.environment.name"] == "test"


async def test_http(monkeypatch: pytest.MonkeyPatch) -> None:
    """With OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf spans go by HTTP."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with OtlpHttpReceiver() as receiver:
        async with process(monkeypatch, receiver.endpoint) as telemetry:
            telemetry.admitted(a_saga(telemetry))
        assert [span.name for span in await received(receiver, 1)] == [f"process {QUEUE}"]


async def test_traces_endpoint(monkeypatch: pytest.MonkeyPatch, receiver: OtlpReceiver) -> None:
    """OTEL_EXPORTER_OTLP_TRACES_ENDPOINT alone is enough."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", receiver.endpoint)
    telemetry = build_telemetry(inbound_queue=QUEUE, worker="worker-1")
    telemetry.admitted(a_saga(telemetry))
    await telemetry.shutdown(5.0)
    assert len(await received(receiver, 1)) == 1


async def test_sent_within_a_second(
    monkeypatch: pytest.MonkeyPatch, receiver: OtlpReceiver
) -> None:
    """Spans leave the process soon, not only when it ends."""
    async with process(monkeypatch, receiver.endpoint) as telemetry:
        telemetry.admitted(a_saga(telemetry))
        spans = await received(receiver, 1)
    assert len(spans) == 1


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "TRUE"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"},
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "pigeon",
        },
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "pigeon",
        },
    ],
)
async def test_disabled(
    monkeypatch: pytest.MonkeyPatch,
    lines: list[dict[str, Any]],
    environment: dict[str, str],
) -> None:
    """Without an endpoint, disabled, or set up wrongly, there are no spans; log lines go on."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    telemetry = build_telemetry(inbound_queue=QUEUE, worker="worker-1")
    saga = a_saga(telemetry)
    telemetry.admitted(saga)
    telemetry.ended(step(telemetry, saga, State.VALIDATED, Advance()))
    await telemetry.shutdown(0.0)
    assert telemetry._processor is None
    events = [line["event"] for line in lines]
    assert events[-3:] == ["saga.admitted", "saga.moved", "saga.ended"]
    assert ("telemetry.disabled" in events) == ("pigeon" in environment.values())


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
async def test_unreachable_collector(
    monkeypatch: pytest.MonkeyPatch, lines: list[dict[str, Any]], protocol: str
) -> None:
    """A collector that is away costs sagas nothing, a line a minute, and the deadline at most."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    telemetry = build_telemetry(inbound_queue=QUEUE, worker="worker-1")
    saga = a_saga(telemetry)
    began = time.perf_counter()
    for _ in range(10_000):  # more than the queue holds
        telemetry.ended(saga)
    assert time.perf_counter() - began < 10.0
    began = time.perf_counter()
    await telemetry.shutdown(0.5)
    assert time.perf_counter() - began < 3.0
    assert [line["event"] for line in lines].count("telemetry.trouble") <= 1


async def test_shutdown_leaves_the_loop_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the last spans are flushed, the event loop runs on."""
    async with process(monkeypatch, "http://127.0.0.1:1") as telemetry:
        telemetry.admitted(a_saga(telemetry))
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0)
                ticks += 1

        ticking = asyncio.create_task(tick())
        await telemetry.shutdown(0.1)
        ticking.cancel()
    assert ticks > 10


async def test_after_shutdown(monkeypatch: pytest.MonkeyPatch, receiver: OtlpReceiver) -> None:
    """What is told after the shutdown is dropped without a complaint, and it may be repeated."""
    async with process(monkeypatch, receiver.endpoint) as telemetry:
        telemetry.admitted(a_saga(telemetry))
        await telemetry.shutdown(5.0)
        telemetry.ended(a_saga(telemetry))
    assert len(receiver.spans) == 1


def test_lines(lines: list[dict[str, Any]]) -> None:
    """Each transition is one line, with saga, model, MLflow run and trace on it."""
    telemetry = build_telemetry(inbound_queue=QUEUE, worker="worker-1")
    saga = a_saga(telemetry)
    telemetry.admitted(saga)
    with telemetry.attempt(saga) as span:
        span.retry(saga, "node said no")
    with telemetry.attempt(saga) as span:
        span.retry(saga, "node away", hold="node")
    step(telemetry, saga, State.VALIDATED, Advance(note="adopted"))
    telemetry.ended(step(telemetry, saga, State.DEAD_LETTERED, Fail(ErrorClass.INVALID, "bad")))
    assert saga.traceparent is not None
    for line in lines:
        assert line["saga_id"] == saga.id
        assert line["model_id"] == "model_1"
        assert line["mlflow_run_id"] == "run_7"
        assert line["trace_id"] == saga.traceparent.split("-")[1]
    assert [(line["log_level"], line["event"], line.get("reason")) for line in lines] == [
        ("info", "saga.admitted", None),
        ("warning", "saga.retry", "node said no"),
        ("info", "saga.held", "node away"),
        ("info", "saga.moved", "adopted"),
        ("info", "saga.moved", "bad"),
        ("warning", "saga.ended", None),
    ]
    assert (lines[4]["from"], lines[4]["to"]) == ("RECEIVED", "DEAD_LETTERED")


def test_context_inside_and_outside(lines: list[dict[str, Any]]) -> None:
    """Every line written inside an attempt carries its saga; none outside does."""
    telemetry = build_telemetry(inbound_queue=QUEUE, worker="worker-1")
    saga = a_saga(telemetry)
    log = structlog.get_logger()
    with telemetry.attempt(saga):
        log.info("inside")
    log.info("outside")
    telemetry.duplicate(saga.id)
    inside, outside, duplicate = lines
    assert inside["saga_id"] == saga.id
    assert "saga_id" not in outside
    assert (duplicate["event"], duplicate["saga_id"]) == ("saga.duplicate", saga.id)


@pytest.mark.parametrize("raw", [b"", b"\xff\xfe", b"[" * 100_000, b'{"mlflow_run_id": 5}', b"5"])
def test_any_message(raw: bytes, lines: list[dict[str, Any]]) -> None:
    """Bytes that are no message are traced and logged like any."""
    telemetry = build_telemetry(inbound_queue=QUEUE, worker="worker-1")
    saga = msgspec.structs.replace(a_saga(telemetry), message=raw, traceparent="tampered")
    telemetry.admitted(saga)
    step(telemetry, saga, State.VALIDATED, Advance())
    telemetry.ended(saga)
    assert [line["event"] for line in lines] == ["saga.admitted", "saga.moved", "saga.ended"]


async def test_own_failure(
    monkeypatch: pytest.MonkeyPatch, receiver: OtlpReceiver, lines: list[dict[str, Any]]
) -> None:
    """A bug in telemetry is a log line, never a failed saga."""
    async with process(monkeypatch, receiver.endpoint) as telemetry:
        saga = a_saga(telemetry)
        with telemetry.attempt(saga) as span:
            span.outcome(saga, saga, None)  # type: ignore[arg-type]
        telemetry.ended(msgspec.structs.replace(saga, created_ms=None))
    failures = [line["where"] for line in lines if line["event"] == "telemetry.failed"]
    assert failures == ["outcome", "ended"]


def test_sparse_handler(lines: list[dict[str, Any]]) -> None:
    """Of the SDK's complaints one a minute is passed on, with the number of those kept back."""
    now = 0.0
    handler = SparseHandler(lambda: now)
    record = logging.LogRecord("opentelemetry.x", logging.ERROR, "", 0, "away: %s", ("x",), None)
    for moment in (0.0, 1.0, 59.9, 60.0):
        now = moment
        handler.handle(record)
    assert [(line["detail"], line["kept_back"]) for line in lines] == [
        ("away: x", 0),
        ("away: x", 2),
    ]
