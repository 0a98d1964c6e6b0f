"""Errors by whose fault they are. Foreign errors are translated where they enter, in `adapters`."""


class SagaError(Exception):
    """Base of all errors of this service. The text never holds a secret."""


class IllegalEdgeError(SagaError):
    """Our bug: a move that the table does not have was asked for. Nothing changed."""


class Absence(str):
    """A problem's line about what is not there now and may come back: a start waits for it."""

    __slots__ = ()


class ConfigError(SagaError):
    """The operator's: settings are missing or malformed. One line per problem."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class LeaseLostError(SagaError):
    """Another worker holds the saga, or it is gone: the store refused our write. Stop quietly."""


class StoreUnavailableError(SagaError):
    """Redis does not answer, or takes no writes now. Nothing is known about the last write; its
    retry is recognised."""

    def __init__(self, reason: str, *, cause: str = "away") -> None:
        super().__init__(reason)
        self.cause = cause
        """`away`, `credentials`, `oom`, `read_only`, `no_replicas`, `misconf`, `disk_full`,
        `primary_down`, `loading`, `busy`, `bad_type`, `permission`."""


class ChainUnavailableError(SagaError):
    """No node answers, or none that can be believed. Hold and ask again; uses up no retry."""


class HeldError(ChainUnavailableError):
    """Nothing may be sent now: fees, funds, a full lane. The saga waits and uses up no retry."""

    def __init__(self, hold: str, reason: str, *, seconds: float | None = None) -> None:
        super().__init__(reason)
        self.hold = hold
        """What holds, as the metric names it: `max_fee`, `max_cost`, `funds`."""
        self.seconds = seconds
        """How long, where that is known."""


class SignerError(HeldError):
    """The key cannot be used now, or what its keeper gave back is not what was asked for. Nothing
    is stored or sent; the saga waits and uses up no retry."""

    def __init__(self, reason: str) -> None:
        super().__init__("signer", reason)


class ChainError(SagaError):
    """A node answered with an error that may pass. Uses up a retry."""


class TamperedError(SagaError):
    """What the store holds does not decode to what this saga may send. Never sent."""


class UsageError(SagaError):
    """The caller's: a command cannot be carried out as asked; the text says why and the fix."""
