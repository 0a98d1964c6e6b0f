"""What the world answered to the last action: the second argument of every `decide`.

A fact lives in memory only. After a crash there is none (None), and `decide` asks again.
"""

import msgspec

from saga.costs import Cost
from saga.model import Deployment, Receipt, Registration


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A transaction that has been simulated but not signed. Amounts in wei."""

    to: str
    data: str
    """0x hex calldata."""
    gas: int
    """Gas limit."""
    max_fee: int
    """Per gas; the gas price where `legacy`."""
    max_priority_fee: int
    """Per gas; the gas price where `legacy`."""
    predicted: str
    """The token's address."""
    initcode_hash: str = ""
    legacy: bool = False
    """A type-0 transaction, for a chain without base fee; else EIP-1559."""
    cost_gas: int = 0
    """Gas that the model's transactions are expected to burn together: its cost."""


class Absent(msgspec.Struct, frozen=True):
    """The chain holds nothing for this step yet; `call` would make it."""

    call: Call
    follow: Call | None = None
    """The registration, to be sent right behind the deployment."""


class TokenExists(msgspec.Struct, frozen=True, kw_only=True):
    """The chain holds a token for the model, whoever deployed it."""

    deployment: Deployment
    name: str
    symbol: str
    mlflow_run_id: str


class EntryExists(msgspec.Struct, frozen=True):
    """The registry holds our token for the model."""

    registration: Registration


class RegistryConflict(msgspec.Struct, frozen=True):
    """The registry holds another token for the model, or the token for another model."""

    reason: str


class Intended(msgspec.Struct, frozen=True):
    """Bytes, hash and nonce are stored; nothing has been sent."""


class ClaimLost(msgspec.Struct, frozen=True):
    """Another saga owns the model by now, so the store refused the intent."""

    holder: str


class Sent(msgspec.Struct, frozen=True):
    """A node has the bytes, or its answer was lost: watch the hash."""


class Unmined(msgspec.Struct, frozen=True):
    """None of the stored hashes has a receipt at this moment."""


class TimedOut(msgspec.Struct, frozen=True):
    """None of the stored hashes got a receipt within the step's time."""

    seconds: float


class Mined(msgspec.Struct, frozen=True):
    """One of the stored transactions succeeded and is as deep as asked."""

    receipt: Receipt


class Reverted(msgspec.Struct, frozen=True):
    """One of the stored transactions is in a block and failed: its nonce is spent."""

    tx_hash: str
    block_number: int
    cost: Cost | None = None


class NonceTaken(msgspec.Struct, frozen=True):
    """The nonce was spent by a transaction that is not the step's."""

    nonce: int
    cost: Cost | None = None
    """When it was a self-send of ours."""


class Cancelled(msgspec.Struct, frozen=True):
    """An operator's self-send has spent the nonce in the place of the call."""

    tx_hash: str
    cost: Cost | None = None


class Stranded(msgspec.Struct, frozen=True):
    """The signer of the stored transaction cannot pay for it, and another lane could."""

    reason: str


class Refused(msgspec.Struct, frozen=True):
    """The chain would revert the call, or no node will ever take these bytes."""

    reason: str


Fact = (
    Absent
    | TokenExists
    | EntryExists
    | RegistryConflict
    | Intended
    | ClaimLost
    | Sent
    | Unmined
    | TimedOut
    | Mined
    | Reverted
    | NonceTaken
    | Cancelled
    | Stranded
    | Refused
)
