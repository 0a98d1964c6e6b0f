"""The settings that decisions depend on, as plain data."""

import msgspec


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What `decide` may know of the configuration."""

    network: str
    """The name that events carry."""
    min_improvement_percent: float = 0.0
    max_message_bytes: int = 65536
    max_retries: int = 3
    retry_base_seconds: float = 1.0
    retry_max_seconds: float = 60.0
