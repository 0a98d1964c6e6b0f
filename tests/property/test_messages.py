import json
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from saga.messages import (
    InvalidMessage,
    ModelReadyToDeployMessage,
    content_fingerprint,
    identify,
    parse,
    token_name,
)
from saga.schemas import INBOUND, schemas

GOLDEN = Path(__file__).parents[1] / "golden" / "messages"
SAMPLE: dict[str, Any] = json.loads((GOLDEN / "model_ready_to_deploy.json").read_bytes())
laws = settings(deadline=None)  # a busy machine breaks no law
VALIDATOR = Draft202012Validator(schemas()[INBOUND])

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()))
    | st.integers(min_value=10**300, max_value=10**420),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
odd_fields = st.dictionaries(
    st.sampled_from([*SAMPLE, "status", "traceparent", "payload", "message_type", "message_id"]),
    anything,
    max_size=3,
)
words = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=256).filter(
    lambda word: not word.isspace()
)
values = st.floats(allow_nan=False, allow_infinity=False)
good_payloads = st.fixed_dictionaries(
    {
        "model_id": words,
        "token_symbol": st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True),
        "metric_name": words,
        "baseline_value": st.floats(1e-6, 1e6) | st.integers(1, 10**20),
        "current_value": st.floats(-1e6, 1e6) | st.integers(-(10**20), 10**20),
        "model_name": words,
        "model_version": words,
        "mlflow_run_id": words,
    },
    optional={
        "improvement_percentage": st.none(),
        "contributor_address": st.none() | st.from_regex("0x[0-9a-fA-F]{40}", fullmatch=True),
        "experiment_name": anything,
        "tags": anything,
        "timestamp": st.none() | st.datetimes().map(lambda time: time.isoformat()),
        "message_version": st.none() | st.from_regex(r"1\.[0-9]{1,9}", fullmatch=True),
        "api_schema": anything,
    },
)
message_ids = st.none() | st.text(max_size=300) | st.integers()
finite = st.recursive(
    st.none() | st.booleans() | st.integers() | values | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


def encoded(value: object, **options: Any) -> bytes:
    return json.dumps(value, **options).encode()


def wrapped(payload: object, message_id: object, **more: object) -> dict[str, object]:
    kind = "model_ready_to_deploy"
    return {"message_id": message_id, "message_type": kind, "payload": payload, **more}


def attempt(raw: bytes) -> ModelReadyToDeployMessage | str:
    try:
        return parse(raw)
    except InvalidMessage as error:
        return str(error)


def check(raw: bytes) -> None:
    """The laws that hold for any bytes at all."""
    identity = identify(raw)
    assert len(identity.saga_id) == 32
    assert int(identity.saga_id, 16) >= 0
    outcome = attempt(raw)
    if isinstance(outcome, str):
        assert outcome.isprintable()
        assert len(outcome) < 400
        return
    assert outcome.improvement_percentage - outcome.improvement_percentage == 0
    assert parse(msgspec.json.encode(outcome)) == outcome
    assert identity.model_id == outcome.model_id
    assert len(content_fingerprint(outcome)) == 64
    assert token_name(outcome.model_id).startswith("Hokusai ")
    assert VALIDATOR.is_valid(json.loads(raw))


@laws
@given(st.binary())
def test_any_bytes(raw: bytes) -> None:
    """Whatever the bytes, parse raises nothing but InvalidMessage and identify nothing at all."""
    check(raw)


@laws
@given(anything, st.booleans())
def test_any_json(value: object, ascii_only: bool) -> None:
    """Whatever the JSON, the same holds."""
    check(json.dumps(value, ensure_ascii=ascii_only).encode(errors="surrogatepass"))


@laws
@given(odd_fields, st.booleans(), message_ids)
def test_mutated_fields(changes: dict[str, object], enveloped: bool, message_id: object) -> None:
    """Whatever is put into a field of a valid message, the same holds."""
    payload = {**SAMPLE, **changes}
    check(encoded(wrapped(payload, message_id) if enveloped else payload))


@laws
@given(st.integers(0, 600), st.integers(0, 8), st.binary(max_size=8))
def test_mutated_bytes(start: int, length: int, replacement: bytes) -> None:
    """Whatever bytes of a valid message are replaced, the same holds."""
    raw = encoded(SAMPLE)
    check(raw[:start] + replacement + raw[start + length :])


@laws
@given(good_payloads)
def test_good_payload(payload: dict[str, object]) -> None:
    """A message that keeps the rules is accepted, whatever its free fields hold."""
    raw = encoded(payload)
    assert isinstance(attempt(raw), ModelReadyToDeployMessage)
    check(raw)


@laws
@given(finite, message_ids, st.integers(0, 9), st.randoms(use_true_random=False))
def test_redelivery(payload: object, message_id: object, retries: int, shuffle: Any) -> None:
    """A redelivery with another retry count, time, key order and spacing is the same saga."""

    def reordered(value: object) -> object:
        if isinstance(value, dict):
            names = sorted(value)
            shuffle.shuffle(names)
            return {name: reordered(value[name]) for name in names}
        return [reordered(item) for item in value] if isinstance(value, list) else value

    first = wrapped(payload, message_id, retry_count=0, timestamp="2024-01-27T10:00:00")
    again = wrapped(payload, message_id, retry_count=retries, timestamp=None)
    assert identify(encoded(reordered(again), indent=1)) == identify(encoded(first))


@laws
@given(finite, finite, message_ids)
def test_content_separates(one: object, other: object, message_id: object) -> None:
    """Another payload is another saga, under whatever message id."""
    assume(json.dumps(one, sort_keys=True) != json.dumps(other, sort_keys=True))
    ids = {identify(encoded(wrapped(payload, message_id))).saga_id for payload in (one, other)}
    assert len(ids) == 2


@laws
@given(odd_fields, odd_fields, message_ids)
def test_one_identity_one_fate(
    payload: dict[str, object], around: dict[str, object], message_id: object
) -> None:
    """Messages of one identity are accepted as the same message or refused for the same reason."""
    mine = wrapped({**SAMPLE, **payload}, message_id)
    theirs = {**mine, **{k: v for k, v in around.items() if k != "message_id"}, "retry_count": 2}
    if identify(encoded(mine)).saga_id == identify(encoded(theirs)).saga_id:
        assert attempt(encoded(mine)) == attempt(encoded(theirs))
