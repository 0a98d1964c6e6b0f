"""Every key name in Redis, built here and nowhere else."""

import re

import msgspec

from saga.model import State

_GLOB = re.compile(r"([*?\[\]\\])")
"""What means something in a pattern of SCAN."""
_LANE = re.compile(r"[0-9]+:0x[0-9a-f]{40}")


class RedisKeys(msgspec.Struct, frozen=True, kw_only=True):
    """The five lists by their configured names, everything else below `prefix`.

    Scripts touch several keys at once, so a Redis Cluster is not supported.
    """

    inbound: str
    processing: str
    outbound: str
    dead_letters: str
    failures: str = "hokusai:token_deploy_failed_queue"
    prefix: str = "hokusai:saga:"

    HISTORY_SUFFIX = ":history"

    @property
    def saga_prefix(self) -> str:
        return f"{self.prefix}id:"

    def saga(self, saga_id: str) -> str:
        return f"{self.saga_prefix}{saga_id}"

    def history(self, saga_id: str) -> str:
        return f"{self.saga(saga_id)}{self.HISTORY_SUFFIX}"

    @property
    def due(self) -> str:
        """Sorted set: active saga → when it next needs somebody (server ms)."""
        return f"{self.prefix}due"

    @property
    def index_prefix(self) -> str:
        return f"{self.prefix}state:"

    def index(self, state: State) -> str:
        """Sorted set: sagas in a state → when they entered it (server ms)."""
        return f"{self.index_prefix}{state.value}"

    def claim(self, model_id: str) -> str:
        """String: the id of the saga that owns the model."""
        return f"{self.prefix}model:{model_id}"

    def sagas_of(self, model_id: str) -> str:
        """Sorted set: the last hundred sagas whose message names the model → when they began."""
        return f"{self.prefix}sagas-of:{model_id}"

    @property
    def event_prefix(self) -> str:
        return f"{self.prefix}event:"

    def event(self, saga_id: str) -> str:
        """String: the event of a saga as it was published, kept for EVENT_RETENTION."""
        return f"{self.event_prefix}{saga_id}"

    @property
    def events(self) -> str:
        """Sorted set: saga → when its event was first published (server µs, no two the same)."""
        return f"{self.prefix}events"

    def republishing(self, run: str) -> str:
        """String: how many events one `saga republish` has sent so far; gone a day later."""
        return f"{self.prefix}republish:{run}"

    def operation(self, operation: str) -> str:
        """String: the answer to one order of an operator, by which its retry is known."""
        return f"{self.prefix}operation:{operation}"

    @property
    def audit(self) -> str:
        """List: what operators did to what was done already, newest last, capped."""
        return f"{self.prefix}audit"

    @property
    def throttle(self) -> str:
        """String: when the next deployment may be sent (server ms); gone when at once."""
        return f"{self.prefix}throttle"

    @property
    def pause(self) -> str:
        """String: who has stopped the intake, when and why (`saga.backpressure.Pause`); gone when
        nobody has."""
        return f"{self.prefix}pause"

    @property
    def probe(self) -> str:
        """Never there: writing nothing to it shows whether Redis takes writes."""
        return f"{self.prefix}probe"

    def price(self, source: str) -> str:
        """String: the last price of the native token that a source gave, with its time."""
        return f"{self.prefix}price:{source}"

    def alert(self, kind: str, subject: str) -> str:
        """String: which replica has alerted of this; gone when it may be said again."""
        return f"{self.prefix}alert:{kind}:{subject}"

    @property
    def totals(self) -> str:
        """Hash: what all sagas together did and paid (`saga.costs.Totals`), kept for ever."""
        return f"{self.prefix}totals"

    @property
    def turns(self) -> str:
        """Sorted set: saga that waits for the throttle → when its turn comes (server ms)."""
        return f"{self.prefix}turns"

    @property
    def settled(self) -> str:
        """String: a count that is raised behind the writes that must be safe (`settle.lua`)."""
        return f"{self.prefix}settled"

    def lane(self, chain_id: int, sender: str) -> str:
        """Hash of one signer on one chain: `next` nonce, `keeper` with its lease, `hold`, and its
        mark: `retired`, absent, `draining:<address>` or `retired:<address>`, and `retired_by`."""
        return f"{self.prefix}lane:{lane_name(chain_id, sender)}"

    @property
    def lanes(self) -> str:
        """Set: the name of every lane that a keeper ever looked after."""
        return f"{self.prefix}lanes"

    @property
    def lanes_listed(self) -> str:
        """String: there once the lanes of releases that kept no such set are in it too."""
        return f"{self.prefix}lanes-listed"

    @property
    def lane_pattern(self) -> str:
        """What SCAN finds the lanes by; the records of their nonces are among what it finds."""
        return _GLOB.sub(r"\\\1", f"{self.prefix}lane:") + "*"

    def lane_named(self, key: str) -> str | None:
        """The name of the lane that has a key; None for what is no lane."""
        name = key.removeprefix(f"{self.prefix}lane:")
        return name if _LANE.fullmatch(name) else None

    def nonce(self, chain_id: int, sender: str, nonce: int) -> str:
        """Hash of one nonce that is out: `saga`, `step`, `cost_gas`, `n` attempts `a0`, `a1`, …"""
        return f"{self.lane(chain_id, sender)}:nonce:{nonce}"


def lane_name(chain_id: int, sender: str) -> str:
    """A lane in the set of all lanes."""
    return f"{chain_id}:{sender.lower()}"


def lane_of(name: str) -> tuple[int, str]:
    """Chain id and sender of a lane's name. Raises ValueError when it is none."""
    chain_id, _, sender = name.partition(":")
    return int(chain_id), sender
