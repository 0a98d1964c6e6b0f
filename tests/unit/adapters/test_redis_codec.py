import base64
import json
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters import redis_codec as codec
from adapters.redis_keys import RedisKeys, lane_name
from saga.errors import TamperedError
from saga.model import (
    PRICE_PATTERN,
    SCHEMA,
    Attempt,
    AttemptKind,
    Deployment,
    ErrorClass,
    HistoryEntry,
    HistoryKind,
    Intent,
    Lease,
    Receipt,
    Registration,
    Saga,
    State,
    Step,
)

GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "golden" / "saga_hash.json").read_text("utf-8")
)
HASH = {name.encode(): value.encode() for name, value in GOLDEN["hash"].items()}
laws = settings(deadline=None)  # a busy machine breaks no law

SENDER, TO, TOKEN = "0x" + "Ab" * 20, "0x" + "11" * 20, "0x" + "22" * 20
RECEIPT = Receipt(
    tx_hash="0x" + "33" * 32,
    block_number=7,
    block_hash="0x" + "44" * 32,
    block_time=1700000000,
    sender=SENDER,
    gas_used=1000000,
    gas_price=1000000000,
)
PRICED = msgspec.structs.replace(RECEIPT, l1_fee=5000000, native_usd="3000.25")


def intent(step: Step, nonce: int, raw: str) -> Intent:
    attempt = Attempt(
        hash="0x" + "55" * 32, raw=raw, max_fee=3000000000, max_priority_fee=1, gas=21000
    )
    return Intent(
        step=step,
        sender=SENDER,
        chain_id=31337,
        nonce=nonce,
        to=TO,
        predicted=TOKEN,
        initcode_hash="0x" + "66" * 32,
        attempts=(attempt,),
    )


SAGA = Saga(
    id="0123456789abcdef0123456789abcdef",
    state=State.DEAD_LETTERED,
    version=9,
    lease=Lease(owner="host-1a2b3c4d.7", fence=3),
    message='{"model_id": "model_1", "name": "模型"}'.encode(),
    created_ms=1700000000123,
    updated_ms=1700000009456,
    message_id="msg-1",
    model_id="model_1",
    attempts=2,
    takeovers=1,
    crashes=1,
    error="reverted: no role",
    error_class="reverted",
    failed_in=State.TOKEN_DEPLOYED,
    failed_at="2023-11-14T22:13:29.456Z",
    discarded="its model was withdrawn",
    claim="0123456789abcdef0123456789abcdef",
    claim_same=True,
    duplicate_of="0011223344556677fedcba9876543210",
    conflicts_with="fedcba9876543210fedcba9876543210",
    content="77" * 32,
    deploy=intent(Step.DEPLOY, 5, ""),
    register=intent(Step.REGISTER, 6, "0x02f8"),
    deployment=Deployment(token=TOKEN, receipt=RECEIPT, adopted=True),
    registration=Registration(receipt=PRICED, adopted=False),
    gas_used=2100000,
    fees_wei=2 * 10**15,
    left=("0x" + "88" * 32, "0x" + "99" * 32),
    traceparent="00-" + "1" * 32 + "-" + "2" * 16 + "-01",
)


def as_hash(saga: Saga) -> dict[bytes, bytes]:
    """The hash that the journal's scripts write for a saga."""
    found: dict[str, Any] = {"schema": SCHEMA, "owner": saga.lease.owner, "fence": saga.lease.fence}
    for name in saga.__struct_fields__:
        value = getattr(saga, name)
        if name in ("lease", "resumed") or value is None:
            continue
        if isinstance(value, Intent | Deployment | Registration):
            value = codec.encode_struct(value)
        if isinstance(value, tuple):
            value = msgspec.json.encode(value)
        found[name] = ("1" if value else "") if isinstance(value, bool) else value
    return {
        name.encode(): value if isinstance(value, bytes) else str(value).encode()
        for name, value in found.items()
    }


def test_golden_hash() -> None:
    """The golden hash decodes to the saga that it was written for."""
    assert codec.decode(HASH) == SAGA
    assert codec.decode(HASH, resumed=True) == msgspec.structs.replace(SAGA, resumed=True)


def test_golden_fields() -> None:
    """Each stored field keeps its name and its spelling, and no saga has another."""
    assert as_hash(SAGA) | {b"op": HASH[b"op"]} == HASH


def test_golden_names() -> None:
    """States, steps, error classes and kinds of attempts and history entries stay as stored."""
    names = {
        "schema": SCHEMA,
        "states": [state.value for state in State],
        "steps": [step.value for step in Step],
        "error_classes": [error.value for error in ErrorClass],
        "attempt_kinds": [kind.value for kind in AttemptKind],
        "history_kinds": [*get_args(HistoryKind)],
    }
    assert names == {name: GOLDEN[name] for name in names}


def test_golden_keys() -> None:
    """Each key has the name that it always had."""
    keys = RedisKeys(
        inbound="hokusai:model_ready_queue",
        processing="hokusai:model_ready_queue:processing",
        outbound="hokusai:token_deployed_queue",
        dead_letters="hokusai:model_ready_queue:dlq",
    )
    assert {
        "saga": keys.saga(SAGA.id),
        "history": keys.history(SAGA.id),
        "due": keys.due,
        "index": keys.index(State.RECEIVED),
        "claim": keys.claim("model_1"),
        "event": keys.event(SAGA.id),
        "events": keys.events,
        "audit": keys.audit,
        "sagas_of": keys.sagas_of("model_1"),
        "totals": keys.totals,
        "pause": keys.pause,
        "probe": keys.probe,
        "lane": keys.lane(31337, SENDER),
        "lanes": keys.lanes,
        "lanes_listed": keys.lanes_listed,
        "lane_name": lane_name(31337, SENDER),
        "nonce": keys.nonce(31337, SENDER, 5),
    } == GOLDEN["keys"]


CALL = Attempt(
    hash="0x" + "55" * 32, raw="0x02f8", max_fee=3000000000, max_priority_fee=1, gas=21000
)
CANCEL = Attempt(
    hash="0x" + "77" * 32,
    raw="0x02f9",
    max_fee=4000000000,
    max_priority_fee=2,
    gas=21000,
    kind=AttemptKind.CANCEL,
)


def test_golden_attempts() -> None:
    """The golden attempts read as they were meant, and are spelled as they always were."""
    for name, attempt in (("a0", CALL), ("a1", CANCEL)):
        line = GOLDEN["nonce"][name].encode()
        assert msgspec.json.decode(line, type=Attempt) == attempt
        assert msgspec.json.encode(attempt) == line


def test_old_attempts() -> None:
    """An attempt stored before there were kinds is the step's own call, and stays so spelled."""
    assert b"kind" not in HASH[b"register"]
    assert SAGA.register is not None
    assert [attempt.kind for attempt in SAGA.register.attempts] == [AttemptKind.CALL]
    assert codec.encode_struct(SAGA.register) == HASH[b"register"]


@pytest.mark.parametrize("kind", [b"mint", b""])
def test_unknown_kind(kind: bytes) -> None:
    """Bytes of which nobody knows what they do are not taken for the step's call."""
    foreign = HASH[b"register"].replace(b'"gas":21000', b'"gas":21000,"kind":"%s"' % kind)
    with pytest.raises(TamperedError):
        codec.decode(HASH | {b"register": foreign})


def test_golden_dead_letter() -> None:
    """A dead letter has the golden fields in the golden order."""
    letter = codec.dead_letter(
        msgspec.structs.replace(SAGA, state=State.TOKEN_DEPLOYED),
        error="reverted: no role",
        error_class="reverted",
        failed_at="2023-11-14T22:13:29.456Z",
        queue="hokusai:model_ready_queue",
    )
    assert letter.decode() == json.dumps(
        GOLDEN["dead_letter"], separators=(",", ":"), ensure_ascii=False
    )


def test_golden_history() -> None:
    """The golden history line reads as it was meant; a written one has the same form."""
    line = GOLDEN["history"].encode()
    entry = HistoryEntry(
        at_ms=1700000000123,
        kind="moved",
        worker="host-1a2b3c4d",
        state=State.TOKEN_DEPLOYED,
        was=State.VALIDATED,
        fence=3,
        note="adopted",
        tx="0x" + "33" * 32,
    )
    assert codec.decode_history(line) == entry
    fields = {name: getattr(entry, name) for name in entry.__struct_fields__ if name != "at_ms"}
    assert b'{"at_ms":1700000000123,' + codec.history_entry(**fields) == line


def test_least() -> None:
    """A hash with the fields of an admission alone is a saga with everything else unset."""
    optional = {*codec._TEXTS, *codec._STRUCTS, "op", "attempts", "takeovers", "crashes"}
    names = (
        set(GOLDEN["hash"]) - optional - {"failed_in", "claim_same", "gas_used", "fees_wei", "left"}
    )
    assert codec.decode({name.encode(): HASH[name.encode()] for name in names}) == Saga(
        id=SAGA.id,
        state=SAGA.state,
        version=9,
        lease=SAGA.lease,
        message=SAGA.message,
        created_ms=SAGA.created_ms,
        updated_ms=SAGA.updated_ms,
    )


def test_unknown_field() -> None:
    """A field of a later release is ignored."""
    assert codec.decode(HASH | {b"later": b"?"}) == SAGA


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("state", b"DONE"),
        ("failed_in", b""),
        ("version", b"nine"),
        ("fence", b""),
        ("id", b"\xff"),
        ("deploy", b"{"),
        ("deploy", b'{"step":"deploy"}'),
        ("register", b'{"step":"mint"}'),
        ("deployment", b"null"),
        ("gas_used", b"many"),
        ("fees_wei", b"1e18"),
        ("left", b""),
        ("left", b"null"),
        ("left", b"[1]"),
        ("registration", HASH[b"registration"].replace(b"3000.25", b"NaN")),
        ("registration", HASH[b"registration"].replace(b"3000.25", b"1E+9")),
    ],
)
def test_tampered(field: str, value: bytes) -> None:
    """A hash that no script of ours wrote raises TamperedError, and nothing else."""
    with pytest.raises(TamperedError, match=r"^saga "):
        codec.decode(HASH | {field.encode(): value})


@pytest.mark.parametrize("field", ["id", "state", "version", "owner", "fence", "message"])
def test_incomplete(field: str) -> None:
    """A hash without a field that every saga has raises TamperedError."""
    with pytest.raises(TamperedError, match="KeyError"):
        codec.decode({name: value for name, value in HASH.items() if name != field.encode()})


texts = st.text(st.characters(codec="utf-8"))
optional = st.none() | texts
counts = st.integers(0, 10**15)
receipts = st.builds(
    Receipt,
    tx_hash=texts,
    block_number=counts,
    block_hash=texts,
    block_time=counts,
    sender=texts,
    gas_used=counts,
    gas_price=st.integers(0, 2**64 - 1),
    l1_fee=st.integers(0, 2**64 - 1),
    native_usd=st.none() | st.from_regex(PRICE_PATTERN.replace("$", r"\Z"), fullmatch=True),
)
fees = st.integers(0, 2**64 - 1)
attempts = st.builds(
    Attempt,
    hash=texts,
    raw=texts,
    max_fee=fees,
    max_priority_fee=fees,
    gas=fees,
    kind=st.sampled_from(AttemptKind),
)
intents = st.builds(
    Intent,
    step=st.sampled_from(Step),
    sender=texts,
    chain_id=counts,
    nonce=counts,
    to=texts,
    predicted=texts,
    initcode_hash=texts,
    attempts=st.lists(attempts, max_size=3).map(tuple),
)
sagas = st.builds(
    Saga,
    id=texts,
    state=st.sampled_from(State),
    version=counts,
    lease=st.builds(Lease, owner=texts, fence=counts),
    message=st.binary(),
    created_ms=counts,
    updated_ms=counts,
    message_id=optional,
    model_id=optional,
    attempts=counts,
    takeovers=counts,
    crashes=counts,
    error=optional,
    error_class=optional,
    failed_in=st.none() | st.sampled_from(State),
    failed_at=optional,
    claim=optional,
    claim_same=st.booleans(),
    content=optional,
    deploy=st.none() | intents,
    register=st.none() | intents,
    deployment=st.none() | st.builds(Deployment, token=texts, receipt=receipts),
    registration=st.none() | st.builds(Registration, receipt=receipts, adopted=st.booleans()),
    gas_used=counts,
    fees_wei=st.integers(0, 10**30),
    left=st.lists(texts, max_size=3).map(tuple),
    traceparent=optional,
)


@laws
@given(saga=sagas)
def test_round_trip(saga: Saga) -> None:
    """What is stored of any saga reads back as that saga."""
    assert codec.decode(as_hash(saga)) == saga


@laws
@given(fields=st.dictionaries(st.sampled_from(sorted(HASH)), st.binary(max_size=40), min_size=1))
def test_any_tampering(fields: dict[bytes, bytes]) -> None:
    """Whatever is written over a hash, it decodes or raises TamperedError."""
    with suppress(TamperedError):
        codec.decode(HASH | fields)


@laws
@given(message=st.binary() | texts.map(str.encode), error=texts)
def test_dead_letter_any(message: bytes, error: str) -> None:
    """Any message's bytes can be had back from its dead letter; equal sagas give equal bytes."""
    saga = msgspec.structs.replace(SAGA, message=message)
    letters = {
        codec.dead_letter(saga, error=error, error_class="invalid", failed_at="now", queue="q")
        for _ in range(2)
    }
    (letter,) = [json.loads(raw) for raw in letters]
    kept = letter.get("original_message_base64")
    found = letter["original_message"].encode() if kept is None else base64.b64decode(kept)
    assert (found, letter["error"]) == (message, error)
    if kept is not None:
        assert letter["original_message"] == message.decode("utf-8", "replace")


@laws
@given(flat=st.lists(st.tuples(st.binary(), st.binary()), unique_by=lambda pair: pair[0]))
def test_pairs(flat: list[tuple[bytes, bytes]]) -> None:
    """A flat list of fields and values is the mapping of the one to the other."""
    assert codec.pairs([item for pair in flat for item in pair]) == dict(flat)


def test_pairs_odd() -> None:
    """A field without its value is refused."""
    with pytest.raises(ValueError, match="shorter"):
        codec.pairs([b"field"])


def test_now() -> None:
    """A time of failure is ISO 8601 in UTC, to the millisecond."""
    now = codec.utc_now()
    assert (len(now), now[10], now[19], now[-1]) == (24, "T", ".", "Z")
