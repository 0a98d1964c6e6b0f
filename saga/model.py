"""What a saga is: its states, its steps on the chain, and the record that Redis keeps of it.

Everything here is frozen data. Every string below that is stored (states, steps, field names) is
permanent: `tests/golden` pins them, `SCHEMA` names their version.
"""

from enum import StrEnum
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

SCHEMA = "1"

PRICE_PATTERN = r"^[0-9]{1,18}(\.[0-9]{1,40})?$"
"""Bounds far beyond any real price: a tampered one must not break the arithmetic."""
Price = Annotated[str, Meta(pattern=PRICE_PATTERN)]
"""US dollars, exact decimal text."""


class State(StrEnum):
    """The states of a saga, as stored."""

    RECEIVED = "RECEIVED"
    VALIDATED = "VALIDATED"
    TOKEN_DEPLOYED = "TOKEN_DEPLOYED"  # noqa: S105 - a state, no password
    REGISTERED = "REGISTERED"
    PUBLISHED = "PUBLISHED"
    ACKED = "ACKED"
    SKIPPED = "SKIPPED"
    DEAD_LETTERED = "DEAD_LETTERED"

    @property
    def terminal(self) -> bool:
        """Nothing more happens by itself. DEAD_LETTERED alone can be resumed by an operator."""
        return self in (State.ACKED, State.SKIPPED, State.DEAD_LETTERED)

    @property
    def told(self) -> bool:
        """The world knows of the token: nothing is left but the acknowledgement."""
        return self in (State.PUBLISHED, State.ACKED)


class Step(StrEnum):
    """The steps that send a transaction, as stored."""

    DEPLOY = "deploy"
    REGISTER = "register"


class ErrorClass(StrEnum):
    """Why a saga failed or was skipped, as stored and as shown in the DLQ."""

    INVALID = "invalid"
    CRITERIA = "criteria"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    REGISTRY_CONFLICT = "registry_conflict"
    REVERTED = "reverted"
    RETRIES = "retries_exhausted"
    TAMPERED = "tampered"
    CANCELLED = "cancelled"
    POISON = "poison"


class AttemptKind(StrEnum):
    """What a signed transaction does with its nonce, as stored."""

    CALL = "call"
    """The step's own work."""
    FILL = "fill"
    """A zero-value self-send in the place of bytes that can never be mined."""
    CANCEL = "cancel"
    """The same by an operator's order: the saga ends with it."""


class Attempt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One signed transaction, stored before it is first sent. Amounts in wei."""

    hash: str
    """0x + 64 hex, computed locally from `raw`."""
    raw: str
    """The signed bytes, 0x hex. Sent again as they are, never signed again."""
    max_fee: int
    """Per gas. The gas price on a chain without base fee."""
    max_priority_fee: int
    """Per gas. The gas price on a chain without base fee."""
    gas: int
    """Gas limit."""
    kind: AttemptKind = AttemptKind.CALL


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """What a step is about to do, stored before it is done."""

    step: Step
    sender: str
    chain_id: int
    nonce: int
    to: str
    predicted: str
    """The token's address, known before anything is sent."""
    initcode_hash: str = ""
    """keccak256 of the creation code where we send it ourselves (`create2`), else empty."""
    attempts: tuple[Attempt, ...] = ()


class Receipt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A mined transaction of ours. Amounts in wei, time in seconds since 1970 UTC."""

    tx_hash: str
    block_number: int
    block_hash: str
    block_time: int
    sender: str
    gas_used: int
    gas_price: int
    """The effective gas price."""
    l1_fee: int = 0
    """What an OP-stack chain took besides, for its data on the chain below."""
    native_usd: Price | None = None
    """Price of one native token when this was seen, where one was known."""


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """The token of a model as the chain holds it."""

    token: str
    receipt: Receipt
    adopted: bool = False
    """True when it was found on the chain, made by no transaction that this saga knows of."""


class Registration(msgspec.Struct, frozen=True, kw_only=True):
    """The registry entry of a model as the chain holds it."""

    receipt: Receipt
    adopted: bool = False
    """As `Deployment.adopted`."""


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """The right to move one saga. Redis refuses a write whose owner or fence is not current."""

    owner: str
    """A nonce that one process draws at its start."""
    fence: int
    """Counts the takeovers of the saga."""


class Saga(msgspec.Struct, frozen=True, kw_only=True):
    """One saga as Redis holds it. Times in milliseconds since 1970 UTC, by the server's clock."""

    id: str
    state: State
    version: int
    lease: Lease
    message: bytes
    created_ms: int
    updated_ms: int
    message_id: str | None = None
    model_id: str | None = None
    attempts: int = 0
    """Failed tries of the current step."""
    takeovers: int = 0
    """How often a lease ran out under a worker that never came back."""
    crashes: int = 0
    """The same in its present state, and since an operator's last resume."""
    error: str | None = None
    error_class: str | None = None
    failed_in: State | None = None
    """The state that a dead-lettered saga is resumed to."""
    failed_at: str | None = None
    """When, as in its dead letter: ISO 8601, UTC."""
    discarded: str | None = None
    """Why an operator gave a dead-lettered saga up: it comes back only by its id."""
    claim: str | None = None
    """Id of the saga that owns the model, once asked: our own, or the one that was first."""
    claim_same: bool = False
    """Whether that other saga deploys the same content."""
    duplicate_of: str | None = None
    """Id of the saga that has the same model and content, where this one was skipped for it."""
    conflicts_with: str | None = None
    """Id of the saga that owns the model with other content, where this one failed for it."""
    content: str | None = None
    """Fingerprint of what defines the token, once the claim was asked for."""
    deploy: Intent | None = None
    register: Intent | None = None
    deployment: Deployment | None = None
    registration: Registration | None = None
    gas_used: int = 0
    """Burnt by the transactions of its own steps, those that came to nothing included; see
    `saga.costs` for what is in nobody's account."""
    fees_wei: int = 0
    """What they cost together."""
    left: tuple[str, ...] = ()
    """Hashes of transactions that it left to a lane which could not pay, the newest last: one of
    them may be mined after all."""
    traceparent: str | None = None
    resumed: bool = False
    """True in a worker that did not begin this step itself. Not stored."""

    def intent(self, step: Step) -> Intent | None:
        return self.deploy if step is Step.DEPLOY else self.register

    def receipt(self, step: Step) -> Receipt | None:
        """Of the step's confirmed transaction."""
        result = self.deployment if step is Step.DEPLOY else self.registration
        return None if result is None else result.receipt


HistoryKind = Literal[
    "admitted",
    "moved",
    "intent",
    "attempt",
    "retry",
    "taken",
    "resumed",
    "discarded",
    "republished",
]


class HistoryEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of a saga's history: who did what, when, why. Stored as JSON."""

    at_ms: int
    kind: HistoryKind
    worker: str
    state: State
    was: State | None = None
    fence: int = 0
    note: str | None = None
    tx: str | None = None
    lost: str | None = None
    """Of `taken`: the lease that ran out, its worker's name and a count."""
