"""What an operator is alerted of, and when. Pure: the time is an argument, monotonic seconds."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

import msgspec

from saga.failure_event import TokenDeployFailedMessage
from saga.redaction import for_strangers

MAX_REASON: Final = 1000
"""Characters. Slack cuts a `text` after 40,000, and people read less."""
STUCK_SECONDS: Final = 300.0
"""For so long a keeper may hold a nonce before somebody is told: most fee spikes are shorter."""


class AlertKind(StrEnum):
    """What happened, as sent and as counted."""

    DEAD_LETTER = "dead_letter"
    LOW_BALANCE = "low_balance"
    BALANCE_FILLED = "balance_filled"
    LANE_STUCK = "lane_stuck"
    QUEUE_DEPTH = "queue_depth"
    NO_PROGRESS = "no_progress"


SEVERITY: Final[Mapping[AlertKind, str]] = {
    AlertKind.DEAD_LETTER: "error",
    AlertKind.LOW_BALANCE: "critical",
    AlertKind.BALANCE_FILLED: "info",
    AlertKind.LANE_STUCK: "critical",
    AlertKind.QUEUE_DEPTH: "warning",
    AlertKind.NO_PROGRESS: "critical",
}


_ENDS: Final[Mapping[AlertKind, AlertKind]] = {
    AlertKind.LOW_BALANCE: AlertKind.BALANCE_FILLED,
    AlertKind.BALANCE_FILLED: AlertKind.LOW_BALANCE,
}
"""What is over once the other is told: either is news again then."""


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to tell. The same kind about the same subject is the same alert."""

    kind: AlertKind
    subject: str
    reason: str
    saga_id: str | None = None
    model_id: str | None = None

    @property
    def key(self) -> tuple[str, str]:
        return (self.kind.value, self.subject)

    @property
    def ended(self) -> "Alert | None":
        """The alert that this one puts an end to."""
        kind = _ENDS.get(self.kind)
        return None if kind is None else msgspec.structs.replace(self, kind=kind)


class Pulse(msgspec.Struct, frozen=True, kw_only=True):
    """How the fleet's work stands, as Redis has it."""

    inbound: int
    """Messages that nobody has taken."""
    paused: bool
    """Whether an operator has stopped the intake: what waits for it, waits by order."""
    active: int
    """Sagas that have not ended."""
    newest_ms: int
    """When a saga last entered a state, by the server's clock; 0: never."""

    @property
    def waiting(self) -> int:
        """Messages and sagas that somebody should move."""
        return self.active + (0 if self.paused else self.inbound)


class Sight(msgspec.Struct, frozen=True, kw_only=True):
    """What one look has found."""

    lacking: Mapping[str, str]
    """Of signers that cannot pay: why, by address."""
    held: Mapping[str, str]
    """Of lanes whose keeper holds something: what, by address."""
    signers: tuple[str, ...]
    """All of them."""
    pulse: Pulse | None
    """None while Redis does not answer."""


class Thresholds(msgspec.Struct, frozen=True, kw_only=True):
    """When a number is too high; 0: never."""

    queue_depth: int = 0
    stall_seconds: float = 0.0
    stuck_seconds: float = STUCK_SECONDS


class Rules:
    """What is wrong, look by look. All that is wrong is said each time: who sends it, drops what
    was said before. `began`: when, by the clock of the looks."""

    def __init__(self, thresholds: Thresholds, began: float) -> None:
        self._thresholds = thresholds
        self._low: set[str] = set()
        """Signers that were low, and nobody was told yet that they are not any more."""
        self._held_since: dict[str, float] = {}
        self._moved_at = began
        self._last: Pulse | None = None

    def look(self, sight: Sight, now: float) -> list[Alert]:
        return [
            *self._balances(sight),
            *self._lanes(sight, now),
            *self._depth(sight),
            *self._progress(sight, now),
        ]

    def told(self, alert: Alert) -> None:
        """The alert is on its way: what has an end need not be said again."""
        if alert.kind is AlertKind.BALANCE_FILLED:
            self._low.discard(alert.subject)

    def _balances(self, sight: Sight) -> list[Alert]:
        found = []
        for address in sight.signers:
            if address in sight.lacking:
                self._low.add(address)
                kind, reason = AlertKind.LOW_BALANCE, sight.lacking[address]
            elif address in self._low:
                kind, reason = AlertKind.BALANCE_FILLED, f"{address} can pay again"
            else:
                continue
            found.append(Alert(kind=kind, subject=address, reason=reason))
        return found

    def _lanes(self, sight: Sight, now: float) -> list[Alert]:
        self._held_since = {address: self._held_since.get(address, now) for address in sight.held}
        return [
            Alert(
                kind=AlertKind.LANE_STUCK,
                subject=address,
                reason=f"{address} is stuck for {_minutes(now - since)}: {sight.held[address]}",
            )
            for address, since in self._held_since.items()
            if now - since >= self._thresholds.stuck_seconds
        ]

    def _depth(self, sight: Sight) -> list[Alert]:
        most = self._thresholds.queue_depth
        if not most or sight.pulse is None or sight.pulse.inbound <= most:
            return []
        reason = f"{sight.pulse.inbound} messages wait, more than ALERT_QUEUE_DEPTH {most}"
        return [Alert(kind=AlertKind.QUEUE_DEPTH, subject="inbound", reason=reason)]

    def _progress(self, sight: Sight, now: float) -> list[Alert]:
        pulse, last = sight.pulse, self._last
        self._last = pulse or last
        if pulse is not None and (
            not pulse.waiting
            or last is None
            or pulse.newest_ms != last.newest_ms
            or pulse.inbound < last.inbound
        ):
            self._moved_at = now
        limit = self._thresholds.stall_seconds
        if not limit or now - self._moved_at < limit:
            return []
        what = "Redis does not answer"
        if pulse is not None:
            what = f"{pulse.inbound} messages and {pulse.active} sagas wait"
        reason = f"no saga has moved for {_minutes(now - self._moved_at)}, while {what}"
        return [Alert(kind=AlertKind.NO_PROGRESS, subject="fleet", reason=reason)]


class Repeats:
    """Which alerts were given of late: each at most once in so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until: dict[tuple[str, str], float] = {}
        """When each may be given again."""

    def allows(self, alert: Alert, now: float) -> bool:
        """Whether it may be given now; it counts as given then, and what it ends, as never."""
        self._until = {key: until for key, until in self._until.items() if now < until}
        if alert.key in self._until:
            return False
        self._until[alert.key] = now + self._seconds
        if alert.ended is not None:
            self.forget(alert.ended)
        return True

    def defer(self, alert: Alert, until: float) -> None:
        """Another is telling it: ask again then, since it may not get so far."""
        if alert.key in self._until:
            self._until[alert.key] = min(until, self._until[alert.key])

    def forget(self, alert: Alert) -> None:
        """It was not given after all."""
        self._until.pop(alert.key, None)


def of_failure(failure: TokenDeployFailedMessage) -> Alert:
    """The alert of a dead letter: another one when the saga was resumed and fails again."""
    return Alert(
        kind=AlertKind.DEAD_LETTER,
        subject=f"{failure.saga_id}@{failure.failed_at}",
        reason=f"{failure.error_class} in {failure.failed_in.value}: {failure.error}",
        saga_id=failure.saga_id,
        model_id=failure.model_id,
    )


def document(alert: Alert, *, worker: str, network: str) -> dict[str, str | None]:
    """What is sent. `text` is for Slack and for what takes the same; the rest for programs."""
    severity, reason = SEVERITY[alert.kind], for_strangers(alert.reason, MAX_REASON)
    about = f" of model {alert.model_id}" if alert.model_id else ""
    about += f", saga {alert.saga_id}" if alert.saga_id else ""
    title = f"[{severity}] {network}: {alert.kind.value.replace('_', ' ')}{about}"
    return {
        "text": _escaped(f"{title}\n{reason}"),
        "event": alert.kind.value,
        "severity": severity,
        "saga_id": alert.saga_id,
        "model_id": alert.model_id,
        "reason": reason,
        "worker": worker,
        "network": network,
    }


def _escaped(text: str) -> str:
    """Slack's three control characters: a message must not be able to call a whole channel."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} s"
