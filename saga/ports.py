"""What the engine needs of the world. `adapters/` holds the real parts."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from saga.costs import Cost
from saga.errors import HeldError
from saga.facts import (
    Absent,
    Call,
    Cancelled,
    EntryExists,
    Mined,
    NonceTaken,
    Refused,
    RegistryConflict,
    Reverted,
    Sent,
    Stranded,
    TimedOut,
    TokenExists,
    Unmined,
)
from saga.messages import Identity, ModelReadyToDeployMessage
from saga.model import Attempt, Intent, Saga, State, Step

Found = Absent | TokenExists | EntryExists | RegistryConflict | Refused
Asked = Mined | Reverted | NonceTaken | Cancelled | Stranded | Sent | Unmined
Watched = Mined | Reverted | NonceTaken | Cancelled | Stranded | TimedOut


class Admission(msgspec.Struct, frozen=True):
    """What became of one entry of the processing list."""

    saga: Saga | None
    """Ours to run, or None: a duplicate, or somebody else's."""
    duplicate: bool = False


class IntentAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The store's answer to an intent: exactly one field is set."""

    saga: Saga | None = None
    """Stored (or stored before): the saga that has it."""
    next_nonce: int | None = None
    """Not stored: sign with this nonce and ask again."""
    nonce_unknown: bool = False
    """Not stored: ask a node for the account's nonce and pass it."""
    lane_full: bool = False
    """Not stored: too many transactions are in flight."""
    claim_holder: str | None = None
    """Not stored: the model belongs to this saga."""
    retired: str | None = None
    """Not stored: nothing new is sent from this lane, and why."""
    throttled_seconds: float | None = None
    """Not stored: so long until the next deployment may be sent."""


class Journal(Protocol):
    """The saga's record. Every write is refused unless its saga's lease and version are current.

    All methods raise StoreUnavailableError when Redis is away, and the writing ones
    LeaseLostError when the saga is no longer the caller's.
    """

    async def admit(self, raw: bytes, identity: Identity) -> Admission: ...

    async def take_due(self, limit: int) -> Sequence[Saga]: ...

    async def lost_leases(self, saga: Saga) -> Sequence[str]:
        """Whose leases of the saga ran out, the newest last; old ones may be forgotten."""

    async def states(self, saga_ids: Sequence[str]) -> Sequence[State | None]: ...

    async def renew(self, sagas: Sequence[Saga]) -> set[str]: ...

    async def release(self, sagas: Sequence[Saga]) -> None: ...

    async def next_nonce(self, chain_id: int, sender: str) -> int | None:
        """What a lane gives next; None where none was ever taken."""

    async def claim_model(self, saga: Saga, model_id: str, content: str) -> Saga: ...

    async def intend(
        self,
        saga: Saga,
        intents: Sequence[Intent],
        *,
        cost_gas: int,
        spent: int,
        known: int | None,
        sure: int | None = None,
    ) -> IntentAnswer:
        """`sure`: nonces that are spent beyond doubt, behind which the lane goes on; default: all
        of `spent`, which tells how many are in flight."""

    async def settle(self, saga: Saga) -> None:
        """Return when what is stored of the saga would outlive the store's server.

        Raises HeldError where that is not sure in time, LeaseLostError where it is lost.
        """

    async def abandon(
        self,
        saga: Saga,
        steps: Sequence[Step],
        *,
        attempts: int,
        note: str,
        left: Sequence[Intent] = (),
        cost: Cost | None = None,
    ) -> Saga:
        """Forget the steps' intents. `left`: those whose nonces are out and the lane's own now;
        `cost`: of the transaction that spent one."""

    async def postpone(
        self, saga: Saga, *, seconds: float, attempts: int, error: str, noted: bool = False
    ) -> None:
        """Give the saga up until a time. `noted`: the history says so already."""

    async def move(self, saga: Saga, to: State, change: "Change") -> Saga: ...


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What a move writes besides the state."""

    saga: Saga
    """The saga as it is to be: results, errors, model id."""
    note: str | None = None
    tx: str | None = None
    event: bytes | None = None
    ack: bool = False
    dead_letter: bool = False
    left: tuple[Intent, ...] = ()
    """Intents that the saga forgets while their nonces are out: the lane keeps their records."""


class Turns(Protocol):
    """The order of deployments under DEPLOYMENTS_PER_HOUR."""

    async def turn(self, saga_id: str) -> float:
        """Seconds until the saga may deploy; 0: now. Raises StoreUnavailableError."""


class Queue(Protocol):
    """The inbound and processing lists."""

    async def take(self) -> bytes | None:
        """Move one message into the processing list; None when there was none for a while."""

    async def unfinished(self) -> Sequence[bytes]:
        """The entries of the processing list."""


class Lane(Protocol):
    """The nonces of one signer on the chain. Methods raise as those of `Chain`."""

    @property
    def address(self) -> str:
        """The signer's."""

    @property
    def chain_id(self) -> int: ...

    @property
    def spent_nonces(self) -> int:
        """How many transactions of the signer the chain holds, as last seen."""

    @property
    def sure_nonces(self) -> int:
        """The same, said more than once: one answer of one node must not move the lane."""

    @property
    def strained(self) -> bool:
        """Whether something that is out here is stuck: others are better, this one will do."""

    def hold(self, cost: int) -> HeldError | None:
        """Why nothing that may cost so many wei can be sent from here now."""

    async def known_nonces(self) -> int:
        """As `spent_nonces`, when the pool holds nothing that the store does not know.

        Raises HeldError while it does: what is out there must be mined first.
        """

    async def sign(self, step: Step, call: Call, nonce: int) -> Intent:
        """Sign `call` with `nonce`: an intent with its first attempt. Nothing is sent."""


class Chain(Protocol):
    """One EVM chain, through one signer or several.

    All methods raise ChainUnavailableError when no node answers, and ChainError for an error that
    may pass.
    """

    @property
    def lanes(self) -> Sequence[Lane]:
        """One for each signer, at least one."""

    @property
    def head_number(self) -> int:
        """Of the newest block, as last seen."""

    async def priced(self, call: Call) -> Call:
        """The call at the fees of this moment. Raises HeldError above the operator's limits."""

    async def look_up(
        self, saga: Saga, step: Step, message: ModelReadyToDeployMessage
    ) -> Found: ...

    async def send(self, saga: Saga, step: Step) -> Sent | Refused | Stranded:
        """Give the stored bytes to the nodes; a deployment's with those of its registration."""

    async def ask(self, intent: Intent) -> Asked: ...

    async def watch(self, intent: Intent, seconds: float) -> Watched: ...

    async def next_block(self) -> None:
        """Return when a block has come in. Raises HeldError when none does for a while."""

    def release(self, saga: Saga) -> None:
        """Nobody here waits for the saga's transactions any more."""


__all__ = [
    "Asked",
    "Attempt",
    "Chain",
    "Change",
    "Found",
    "Journal",
    "Lane",
    "Queue",
    "Turns",
    "Watched",
]
