"""Outbound messages: what the world is told once a token is deployed and registered.

Everything in an event comes from the inbound message and from stored receipts, never from a clock,
so that rebuilding it after a crash gives the same bytes and consumers can drop repeats. After a
loss of Redis the chain tells it all again but the prices: `deployment_cost_usd` is left out then.

SIDE EFFECTS: none.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, field

from saga.messages import Address, Symbol, Text

Hash = Annotated[str, Meta(pattern=r"^0x[0-9a-f]{64}$")]
Decimal = Annotated[str, Meta(pattern=r"^(0|[1-9][0-9]*)$")]
Dollars = Annotated[str, Meta(pattern=r"^(0|[1-9][0-9]*)\.[0-9]{6}$")]
_COST_WEI: Final = (
    "What the transactions of the deployment and of the registration cost on the chain, in wei of "
    "its native token, whoever sent them."
)
_COST_USD: Final = (
    "The same in US dollars, each transaction at the native token's price when this service first "
    "saw its receipt. Left out where one of the two has no price: none was known, or the service "
    "found the work done already."
)
UtcTime = Annotated[str, Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$")]


class TokenDeployedMessage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model's token is deployed and registered. Field order is the order on the wire."""

    # A default made by a factory is never omitted: these two are in every message.
    event_type: Literal["token_deployed"] = field(default_factory=lambda: "token_deployed")
    model_id: Text
    token_address: Address
    token_symbol: Symbol
    token_name: Annotated[str, Meta(pattern="^Hokusai ")]
    transaction_hash: Hash
    registry_transaction_hash: Hash
    mlflow_run_id: Text
    model_name: Text
    model_version: Text
    deployment_timestamp: UtcTime
    deployer_address: Address
    network: Annotated[str, Meta(min_length=1)]
    block_number: Annotated[int, Meta(ge=0)]
    gas_used: Decimal
    gas_price: Decimal
    contributor_address: Address | None = None
    performance_metric: Text
    performance_improvement: float
    deployment_cost_wei: Annotated[Decimal, Meta(description=_COST_WEI)] | None = None
    deployment_cost_usd: Annotated[Dollars, Meta(description=_COST_USD)] | None = None
    message_version: Literal["1.0"] = field(default_factory=lambda: "1.0")


NETWORK_NAMES: Final[Mapping[int, str]] = MappingProxyType(
    {
        1: "ethereum",
        10: "optimism",
        56: "bsc",
        100: "gnosis",
        137: "polygon",
        1337: "localhost",
        8453: "base",
        17000: "holesky",
        31337: "localhost",
        42161: "arbitrum",
        43114: "avalanche",
        59144: "linea",
        80002: "polygon-amoy",
        84532: "base-sepolia",
        421614: "arbitrum-sepolia",
        560048: "hoodi",
        11155111: "sepolia",
        11155420: "optimism-sepolia",
    }
)


def encode(event: TokenDeployedMessage) -> bytes:
    """The event as it goes on the wire; equal events give equal bytes."""
    return msgspec.json.encode(event)


def network_name(chain_id: int, override: str | None = None) -> str:
    """The network's name in events: the operator's word for it, else the usual one."""
    return override or NETWORK_NAMES.get(chain_id, f"chain-{chain_id}")


def utc_timestamp(seconds: int) -> str:
    """A block's time as `2024-01-27T10:01:30Z`."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
