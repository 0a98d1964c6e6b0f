"""Settings, read once from the environment and `.env`. Secrets show as stars wherever printed."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings

from saga.alert_settings import AlertSettings, alert_problems
from saga.checks import (
    check_address,
    check_confirmations,
    check_rpc_urls,
    split_urls,
)
from saga.errors import ConfigError
from saga.fees import GWEI, Limits, max_fee_default, tip_floor
from saga.lane import Pace
from saga.money_settings import MoneySettings, money_problems
from saga.policy import Policy
from saga.redis_settings import RedisSettings, redis_problems
from saga.retention_settings import RetentionSettings
from saga.retry_settings import RetrySettings, parse_overrides
from saga.setting import CONFIG, setting
from saga.signer_settings import SignerSettings, source_problems

S = TypeVar("S", bound=BaseSettings)
Address = Annotated[str, AfterValidator(check_address)]
Positive = Annotated[float, Field(gt=0)]


class StoreSettings(RedisSettings):
    """What the operator's commands need: Redis and the names in it."""

    model_config = CONFIG

    INBOUND_QUEUE: str = setting(
        "hokusai:model_ready_queue",
        "list that producers push to",
        "hokusai:model_ready_queue",
        min_length=1,
    )
    OUTBOUND_QUEUE: str = setting(
        "hokusai:token_deployed_queue",
        "list that events are pushed to",
        "hokusai:token_deployed_queue",
        min_length=1,
    )
    FAILURE_QUEUE: str = setting(
        "hokusai:token_deploy_failed_queue",
        "list that the events of dead-lettered messages are pushed to",
        "hokusai:token_deploy_failed_queue",
        min_length=1,
    )
    PROCESSING_QUEUE: str = setting(
        "",
        "list of messages in flight; default: inbound + `:processing`",
        "hokusai:model_ready_queue:processing",
    )
    DLQ_NAME: str = setting(
        "", "list of dead letters; default: inbound + `:dlq`", "hokusai:model_ready_queue:dlq"
    )
    KEY_PREFIX: str = setting(
        "hokusai:saga:", "prefix of all other keys", "hokusai:saga:", min_length=1
    )
    OUTBOUND_MAX_DEPTH: int = setting(
        100_000,
        "while more events than this wait for consumers, no new messages are taken; they are again "
        "below 90 % of it; 0: no limit",
        "100000",
        ge=0,
    )
    LOG_LEVEL: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = setting(
        "INFO", "DEBUG, INFO, WARNING or ERROR", "INFO"
    )
    LOG_FORMAT: Literal["json", "console"] = setting("json", "json or console", "json")

    @property
    def processing_queue(self) -> str:
        return self.PROCESSING_QUEUE or f"{self.INBOUND_QUEUE}:processing"

    @property
    def dead_letter_queue(self) -> str:
        return self.DLQ_NAME or f"{self.INBOUND_QUEUE}:dlq"

    @property
    def lists(self) -> dict[str, str]:
        """The name of each list in Redis, by the setting that gives it."""
        given = ("INBOUND_QUEUE", "OUTBOUND_QUEUE", "FAILURE_QUEUE")
        derived = {"PROCESSING_QUEUE": self.processing_queue, "DLQ_NAME": self.dead_letter_queue}
        return {name: getattr(self, name) for name in given} | derived


class Settings(
    SignerSettings, MoneySettings, RetrySettings, RetentionSettings, AlertSettings, StoreSettings
):
    """What `saga run` needs."""

    WEB3_PROVIDER_URL: Annotated[SecretStr, AfterValidator(check_rpc_urls)] = setting(
        ...,
        "JSON-RPC endpoints of one chain, http(s) or ws(s), with commas between them: transactions "
        "go to all, reads to the best",
        "http://localhost:8545,wss://example.org/v3/<key>",
    )
    MODEL_REGISTRY_ADDRESS: Address = setting(
        ..., "ModelRegistry contract", "0x5FbDB2315678afecb367f032d93F642f64180aa3"
    )
    TOKEN_MANAGER_ADDRESS: Address = setting(
        ..., "TokenManager contract", "0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512"
    )
    DEPLOY_STRATEGY: Literal["manager", "create2"] = setting(
        "manager",
        "`manager`: TokenManager.deployToken; `create2`: through the deterministic-deployment "
        "proxy, for a manager that cannot deploy",
        "manager",
    )
    TOKEN_OWNER_ADDRESS: Address | None = setting(
        None,
        "owner of the tokens with `create2`; default: the manager. Never change it afterwards",
        "0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512",
    )
    CHAIN_ID: int | None = setting(None, "refuse to run on any other chain", "11155111", gt=0)
    NETWORK_NAME: str | None = setting(
        None, "network name in events; default: by chain id", "sepolia", min_length=1
    )
    CONTRACTS_FROM_BLOCK: int = setting(
        0, "block at which log look-ups begin: that of the contracts", "7200000", ge=0
    )
    CONFIRMATIONS: Annotated[int | None, BeforeValidator(check_confirmations)] = setting(
        1,
        "blocks, the transaction's own included, until it counts; or `finalized`",
        "12",
    )
    POLL_SECONDS: float = setting(
        2.0,
        "longest time between two looks at the head while something is in flight; with a "
        "websocket, after the next block is due",
        "2",
        gt=0,
    )
    MAX_IN_FLIGHT: int = setting(
        16, "unmined transactions of each key at once; geth keeps 16; 0: no limit", "16", ge=0
    )
    PIPELINE_REGISTRATION: bool = setting(
        True,  # noqa: FBT003 - a default, no argument
        "send the registration right behind its deployment: both in one block",
        "true",
    )
    FEE_PERCENTILE: float = setting(
        50.0, "of the tips in recent blocks (eth_feeHistory), the one to offer", "50", ge=0, le=100
    )
    MIN_PRIORITY_FEE_GWEI: float | None = setting(
        None,
        "least tip; default: 25 on Polygon and Amoy, 0.001 elsewhere",
        "25",
        ge=0,
        allow_inf_nan=False,
    )
    MAX_FEE_GWEI: float | None = setting(
        None,
        "most per gas, base fee included: above it sagas are held, not failed; default: 1000 on "
        "Polygon and Amoy, 100 elsewhere",
        "100",
        gt=0,
        allow_inf_nan=False,
    )
    BUMP_AFTER_SECONDS: float = setting(
        45.0, "a transaction that is out for so long, and is priced out,", "45", gt=0
    )
    BUMP_AFTER_BLOCKS: int = setting(
        3, "and for so many blocks, is replaced by a better paid one on the same nonce", "3", ge=1
    )
    MIN_IMPROVEMENT_PERCENT: float = setting(
        0.0, "a model is deployed when its improvement is above this", "0.5"
    )
    MAX_MESSAGE_BYTES: int = setting(
        65536, "larger messages are dead-lettered", "65536", ge=256, le=16 * 1024 * 1024
    )
    DEPLOYMENT_TIMEOUT: float = setting(
        300.0, "seconds that a transaction may take before the try counts as failed", "300", gt=0
    )
    WORKER_POOL_SIZE: int = setting(
        64,
        "sagas that work at once, per process; those that wait for blocks, for a lane or for their "
        "turn do not count, up to sixteen times as many",
        "64",
        ge=1,
        le=10_000,
    )
    LEASE_SECONDS: float = setting(
        30.0, "after this, another replica takes over from a dead one", "30", ge=1
    )
    SHUTDOWN_GRACE_SECONDS: float = setting(
        25.0, "SIGTERM: finish or release within this", "25", ge=3
    )
    HTTP_PORT: int = setting(
        8080, "port of `/live`, `/ready` and `/metrics`; 0: off", "8080", ge=0, le=65535
    )

    @property
    def rpc_urls(self) -> list[str]:
        return split_urls(self.WEB3_PROVIDER_URL)

    def limits(self, chain_id: int) -> Limits:
        """What may be paid on a chain; a price that is asked for is not in it (`Budget`)."""
        most = self.MAX_FEE_GWEI
        return Limits(
            max_fee=max_fee_default(chain_id) if most is None else int(most * GWEI),
            max_cost=self.MAX_DEPLOYMENT_COST_WEI,
            max_cost_usd=self.MAX_DEPLOYMENT_COST_USD or None,
            native_usd=self.NATIVE_TOKEN_USD,
        )

    def tip_floor(self, chain_id: int) -> int:
        """Least tip on a chain, wei per gas."""
        least = self.MIN_PRIORITY_FEE_GWEI
        return tip_floor(chain_id, None if least is None else int(least * GWEI))

    @property
    def pace(self) -> Pace:
        return Pace(
            bump_after_seconds=self.BUMP_AFTER_SECONDS, bump_after_blocks=self.BUMP_AFTER_BLOCKS
        )

    @property
    def pause_seconds(self) -> float:
        """Between two deployments of all replicas; 0: none."""
        return 3600 / self.DEPLOYMENTS_PER_HOUR if self.DEPLOYMENTS_PER_HOUR else 0.0

    def policy(self, network: str) -> Policy:
        """The part that decisions depend on."""
        return Policy(
            network=network,
            min_improvement_percent=self.MIN_IMPROVEMENT_PERCENT,
            max_message_bytes=self.MAX_MESSAGE_BYTES,
            max_retries=self.MAX_RETRIES,
            retry_base_seconds=self.RETRY_BASE_SECONDS,
            retry_max_seconds=self.RETRY_MAX_SECONDS,
            retry_overrides=parse_overrides(self.RETRY_OVERRIDES),
            max_crashes=self.MAX_CRASHES,
        )


_WHOLE: tuple[tuple[type[BaseSettings], Callable[[Any], list[str]]], ...] = (
    (SignerSettings, source_problems),
    (MoneySettings, money_problems),
    (AlertSettings, alert_problems),
    (RedisSettings, redis_problems),
)
"""What is judged as a whole, once each of its settings can be read."""


def load(kind: type[S]) -> S:
    """Read the settings. Raises ConfigError with a line for each problem, never with a value."""
    try:
        settings = kind()
    except ValidationError as error:
        lines = [_line(kind, problem) for problem in error.errors()]
        malformed = {str(problem["loc"][0]) for problem in error.errors()}
        for part, problems_of in _WHOLE:
            if issubclass(kind, part) and malformed.isdisjoint(part.model_fields):
                lines += problems_of(part())
        raise ConfigError(lines) from None
    problems = _shared_lists(settings) if isinstance(settings, StoreSettings) else []
    for part, problems_of in _WHOLE:
        if isinstance(settings, part):
            problems += problems_of(settings)
    if problems:
        raise ConfigError(problems)
    return settings


def _shared_lists(settings: StoreSettings) -> list[str]:
    """A list with two roles would lose messages or feed the service its own events."""
    seen: dict[str, str] = {}
    problems = []
    for setting_name, key in settings.lists.items():
        if key in seen:
            example = (StoreSettings.model_fields[setting_name].examples or [""])[0]
            problems.append(
                f"{setting_name} is the same list as {seen[key]}; each needs a name of its own; "
                f"for example {setting_name}={example}"
            )
        seen.setdefault(key, setting_name)
    return problems


def _line(kind: type[BaseSettings], problem: Any) -> str:
    name = str(problem["loc"][0])
    example = (kind.model_fields[name].examples or [""])[0]
    if problem["type"] == "missing":
        what = "is not set"
    elif problem["type"] == "value_error":
        what = str(problem["ctx"]["error"])
    else:
        what = f"is malformed: {problem['msg']}"
    return f"{name} {what}; for example {name}={example}"
