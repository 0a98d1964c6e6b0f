"""Everything `decide` may ask for. The engine performs one, and feeds the fact back."""

import msgspec

from saga.costs import Cost
from saga.facts import Call
from saga.model import Deployment, ErrorClass, Registration, Step


class ClaimModel(msgspec.Struct, frozen=True):
    """Make this saga the model's own, or learn which saga is."""

    model_id: str
    content: str
    """Fingerprint of what defines the token."""


class LookUp(msgspec.Struct, frozen=True):
    """Ask the chain whether the step's work exists; simulate the call if not."""

    step: Step


class Intend(msgspec.Struct, frozen=True):
    """Take a nonce, sign, and store the signed bytes, in one write."""

    step: Step
    call: Call
    follow: Call | None = None
    """The registration, with the next nonce, in the same write."""


class Send(msgspec.Struct, frozen=True):
    """Give the stored bytes to the nodes."""

    step: Step


class Ask(msgspec.Struct, frozen=True):
    """Ask the chain for the receipts of the stored hashes."""

    step: Step


class Watch(msgspec.Struct, frozen=True):
    """Wait for a receipt of the stored hashes, as deep as configured."""

    step: Step


class Abandon(msgspec.Struct, frozen=True):
    """Forget an intent that came to nothing, then look again."""

    step: Step
    reason: str
    counts: bool
    """Whether it uses up one of the step's retries."""
    leave: bool = False
    """The nonce is not spent: it is the lane's own from now on, with that of the registration
    right behind."""
    cost: Cost | None = None
    """Of the transaction that spent the nonce, where it was ours."""


class Retry(msgspec.Struct, frozen=True):
    """Try the same step again later, counted."""

    reason: str


class Advance(msgspec.Struct, frozen=True, kw_only=True):
    """The step is done (outcome `ok`): record its result and move."""

    model_id: str | None = None
    deployment: Deployment | None = None
    registration: Registration | None = None
    event: bytes | None = None
    """Pushed to the outbound list in the same script as the move."""
    ack: bool = False
    """Remove the source message in the same script as the move."""
    note: str | None = None


class Skip(msgspec.Struct, frozen=True):
    """Nothing to deploy (outcome `skip`): record why and acknowledge."""

    error_class: ErrorClass
    reason: str
    duplicate_of: str | None = None
    """The saga that does the same work."""


class Fail(msgspec.Struct, frozen=True):
    """This cannot go on by itself (outcome `fail`): dead-letter it."""

    error_class: ErrorClass
    reason: str
    forget: tuple[Step, ...] = ()
    """Steps whose intents go in the same write: a resume must not find them."""
    cost: Cost | None = None
    """Of the transaction that ended it, where it was ours."""
    conflicts_with: str | None = None
    """The saga that owns the model."""


Query = ClaimModel | LookUp | Intend | Send | Ask | Watch
"""Answered by a fact."""
Outcome = Advance | Skip | Fail
"""Take an edge of the table."""
Action = Query | Abandon | Retry | Outcome
