"""Settings. No test sees the machine's environment or a `.env` file."""

import pickle
import re
from decimal import Decimal
from pathlib import Path

import pytest

from saga.config import Settings, StoreSettings, load
from saga.errors import ConfigError
from saga.fees import GWEI, Limits
from saga.policy import Override, Policy
from saga.settings_table import settings_table
from saga.signer_settings import BESIDE, SOURCES

KEY = "0x" + "5e" * 32
SECRET = "hunter2"
ADDRESS = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
GIVEN = {
    "REDIS_URL": f"redis://:{SECRET}@localhost:6379/0",
    "WEB3_PROVIDER_URL": f"https://node.example/{SECRET}",
    "DEPLOYER_PRIVATE_KEY": KEY,
    "MODEL_REGISTRY_ADDRESS": ADDRESS,
    "TOKEN_MANAGER_ADDRESS": ADDRESS,
}
MALFORMED = [
    ("REDIS_URL", SECRET, "must begin with redis://, rediss:// or unix://"),
    ("REDIS_URL", f"http://{SECRET}", "must begin with redis://"),
    ("REDIS_URL", f"redis://:{SECRET}@host:x{SECRET}/0", "no port that is a number"),
    ("REDIS_URL", f"redis://:{SECRET}@host:0/0", "no port that is a number"),
    ("REDIS_URL", f"redis://:{SECRET}/0@host:6379/0", "no port that is a number"),
    ("REDIS_URL", f"redis://:{SECRET}@host/{SECRET}", "a database that is no number"),
    ("REDIS_URL", f"redis://:{SECRET}@host?db={SECRET}", "a database that is no number"),
    ("REDIS_URL", f"redis://:{SECRET}#1@host/0", "has a #"),
    ("REDIS_URL", f"redis://:{SECRET}@[::1/0", "cannot be read as a URL"),
    ("REDIS_URL", f"redis://:{SECRET}@a:1,b:2/0", "begin with redis+sentinel://"),
    ("REDIS_URL", f"rediss://:{SECRET}@a/0?ssl_cert_reqs=none", "has an ssl_ option"),
    ("REDIS_URL", "unix://", "no path of a socket"),
    ("REDIS_URL", f"redis+sentinel://:{SECRET}@a/main", "has no port that is a number"),
    ("REDIS_URL", f"redis+sentinel://:{SECRET}@a:1,b/main", "sentinel 2 of 2: has no port"),
    ("REDIS_URL", f"redis+sentinel://:{SECRET}@a:1,:2/main", "sentinel 2 of 2: has no host"),
    ("REDIS_URL", f"redis+sentinel://:{SECRET}@a:1,a:1/main", "the same sentinel twice"),
    ("REDIS_URL", f"redis+sentinel://:{SECRET}@a:1", "has no name of the primary"),
    ("REDIS_URL", f"redis+sentinel://:{SECRET}@a:1//0", "has no name of the primary"),
    ("REDIS_URL", f"redis+sentinel://:{SECRET}@a:1/main/x", "a database that is no number"),
    ("REDIS_URL", f"redis+sentinel://:{SECRET}@a:1/main/0/1", "more than a name"),
    ("REDIS_URL", f"redis+sentinel://a:1/main?password={SECRET}", "neither sentinel_username"),
    (
        "REDIS_URL",
        f"rediss+sentinel://a:1/main?sentinel_password={SECRET}&sentinel_password=b",
        "the same option twice",
    ),
    ("REDIS_CA_FILE", "", "at least 1 character"),
    ("REDIS_CERT_FILE", "", "at least 1 character"),
    ("REDIS_KEY_FILE", "", "at least 1 character"),
    ("REDIS_REQUIRE_TLS", "perhaps", "valid boolean"),
    ("REDIS_DURABILITY", "always", "'none', 'aof' or 'replica'"),
    ("INBOUND_QUEUE", "", "at least 1 character"),
    ("OUTBOUND_QUEUE", "", "at least 1 character"),
    ("FAILURE_QUEUE", "", "at least 1 character"),
    ("KEY_PREFIX", "", "at least 1 character"),
    ("OUTBOUND_MAX_DEPTH", "-1", "greater than or equal to 0"),
    ("LOG_LEVEL", "LOUD", "'DEBUG', 'INFO', 'WARNING' or 'ERROR'"),
    ("LOG_FORMAT", "xml", "'json' or 'console'"),
    ("WEB3_PROVIDER_URL", SECRET, "must begin with http://, https://, ws:// or wss://"),
    ("WEB3_PROVIDER_URL", f"http://a,{SECRET}", "endpoint 2 of 2: must begin with http://"),
    ("WEB3_PROVIDER_URL", "http://", "has no host"),
    ("WEB3_PROVIDER_URL", f"http://a:{SECRET}", "no port that is a number"),
    ("WEB3_PROVIDER_URL", f"ws://a/{SECRET}, ws://a/{SECRET}", "names the same endpoint twice"),
    ("WEB3_PROVIDER_URL", "http://a,", "endpoint 2 of 2: must begin with http://"),
    ("DEPLOYER_PRIVATE_KEY", KEY[:-1], "must be 64 hex digits"),
    ("DEPLOYER_PRIVATE_KEY", KEY + "0", "must be 64 hex digits"),
    ("DEPLOYER_PRIVATE_KEY", "0x" + "zz" * 32, "must be 64 hex digits"),
    ("DEPLOYER_ADDRESS", "0x12", "is no address"),
    ("DEPLOYER_ADDRESS", f"{ADDRESS}, {ADDRESS}", "names the same address twice"),
    ("DEPLOYER_KMS_KEY_ID", "", "at least 1 character"),
    ("DEPLOYER_SIGNER_URL", SECRET, "must begin with http:// or https://"),
    ("DEPLOYER_SIGNER_URL", f"https://a:{SECRET}", "no port that is a number"),
    ("MIN_BALANCE_WEI", "-1", "greater than or equal to 0"),
    ("MIN_BALANCE_WEI", "0.5", "valid integer"),
    ("DEPLOYMENTS_PER_HOUR", "-1", "greater than or equal to 0"),
    ("DEPLOYMENTS_PER_HOUR", "inf", "finite"),
    ("NATIVE_TOKEN_USD", "cheap", "valid decimal"),
    ("NATIVE_TOKEN_USD", "0", "greater than 0"),
    ("NATIVE_TOKEN_USD", "nan", "finite"),
    ("NATIVE_TOKEN_USD", "1E10", "less than or equal to 1000000000"),
    ("NATIVE_TOKEN_USD", "1E-19", "no more than 18 decimal places"),
    ("NATIVE_TOKEN_USD_URL", SECRET, "must begin with http:// or https://"),
    ("NATIVE_TOKEN_USD_URL", f"wss://a/{SECRET}", "must begin with http:// or https://"),
    ("NATIVE_TOKEN_USD_URL", f"https://a:{SECRET}", "no port that is a number"),
    ("NATIVE_TOKEN_USD_PATH", "ethereum..usd", "nothing before, after or between dots"),
    ("MAX_DEPLOYMENT_COST_USD", "-1", "greater than or equal to 0"),
    ("MAX_DEPLOYMENT_COST_USD", "inf", "finite"),
    ("MAX_DEPLOYMENT_COST_USD", "1E999999999", "less than or equal to 1000000000"),
    ("DEPLOYER_PKCS11_TOKEN", "", "at least 1 character"),
    ("DEPLOYER_PKCS11_KEY", "", "at least 1 character"),
    ("ALLOW_READABLE_KEY_FILES", "perhaps", "valid boolean"),
    ("SIGNER_TIMEOUT", "0", "greater than 0"),
    ("MODEL_REGISTRY_ADDRESS", "0x12", "is no address"),
    ("TOKEN_MANAGER_ADDRESS", "", "is no address"),
    ("TOKEN_OWNER_ADDRESS", "me", "is no address"),
    ("DEPLOY_STRATEGY", "create3", "'manager' or 'create2'"),
    ("CHAIN_ID", "mainnet", "valid integer"),
    ("CHAIN_ID", "0", "greater than 0"),
    ("NETWORK_NAME", "", "at least 1 character"),
    ("CONTRACTS_FROM_BLOCK", "-1", "greater than or equal to 0"),
    ("CONFIRMATIONS", "0", "must be 1 to 1000, or finalized"),
    ("CONFIRMATIONS", "safe", "must be 1 to 1000, or finalized"),
    ("CONFIRMATIONS", "1.5", "must be 1 to 1000, or finalized"),
    ("POLL_SECONDS", "0", "greater than 0"),
    ("PIPELINE_REGISTRATION", "perhaps", "valid boolean"),
    ("FEE_PERCENTILE", "101", "less than or equal to 100"),
    ("MIN_PRIORITY_FEE_GWEI", "-1", "greater than or equal to 0"),
    ("MAX_FEE_GWEI", "0", "greater than 0"),
    ("MAX_FEE_GWEI", "nan", "finite"),
    ("MAX_DEPLOYMENT_COST_WEI", "1.5", "valid integer"),
    ("BUMP_AFTER_SECONDS", "0", "greater than 0"),
    ("BUMP_AFTER_BLOCKS", "0", "greater than or equal to 1"),
    ("MAX_IN_FLIGHT", "-1", "greater than or equal to 0"),
    ("MIN_IMPROVEMENT_PERCENT", "some", "valid number"),
    ("MAX_MESSAGE_BYTES", "255", "greater than or equal to 256"),
    ("MAX_RETRIES", "-1", "greater than or equal to 0"),
    ("RETRY_BASE_SECONDS", "0", "greater than 0"),
    ("RETRY_MAX_SECONDS", "0", "greater than 0"),
    ("RETRY_OVERRIDES", "VALIDATED:max=many", "max=many for VALIDATED; it must be a whole number"),
    ("MAX_CRASHES", "-1", "greater than or equal to 0"),
    ("DEPLOYMENT_TIMEOUT", "nan", "finite"),
    ("WORKER_POOL_SIZE", "0", "greater than or equal to 1"),
    ("LEASE_SECONDS", "0.5", "greater than or equal to 1"),
    ("SHUTDOWN_GRACE_SECONDS", "2", "greater than or equal to 3"),
    ("SAGA_RETENTION", "-1", "greater than or equal to 0"),
    ("EVENT_RETENTION", "-1", "greater than or equal to 0"),
    ("ALERT_WEBHOOK_URL", SECRET, "must begin with http:// or https://"),
    ("ALERT_WEBHOOK_URL", f"https://a:{SECRET}", "no port that is a number"),
    ("ALERT_WEBHOOK_SECRET", SECRET, "must have at least 16 characters"),
    ("ALERT_QUEUE_DEPTH", "-1", "greater than or equal to 0"),
    ("ALERT_STALL_MINUTES", "-1", "greater than or equal to 0"),
    ("ALERT_STALL_MINUTES", "inf", "finite"),
    ("ALERT_REPEAT_MINUTES", "0", "greater than 0"),
    ("HTTP_PORT", "65536", "less than or equal to 65535"),
]
FREE = {"PROCESSING_QUEUE", "DLQ_NAME", "APP_ENV"}
"""Any text is right: empty is the default."""
TLS = {"REDIS_CA_FILE", "REDIS_CERT_FILE", "REDIS_KEY_FILE", "REDIS_REQUIRE_TLS", "APP_ENV"}
"""What needs an encrypted REDIS_URL, and files that are there: see test_redis_settings.py."""
PATHS = {
    "DEPLOYER_PRIVATE_KEY_FILE",
    "DEPLOYER_PRIVATE_KEYS_FILE",
    "DEPLOYER_KEYSTORE",
    "DEPLOYER_KEYSTORE_PASSWORD_FILE",
    "DEPLOYER_PKCS11_MODULE",
    "DEPLOYER_PKCS11_PIN_FILE",
}
"""What is there is read when the key is."""


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only what GIVEN sets is set, and there is no `.env`."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name, raising=False)
    for name, value in GIVEN.items():
        monkeypatch.setenv(name, value)


def problems() -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(Settings)
    assert caught.value.__cause__ is None
    return caught.value.problems


@pytest.mark.parametrize("name", GIVEN)
def test_missing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A required setting that is missing is one line with its name and an example."""
    monkeypatch.delenv(name)
    (line,) = problems()
    assert line.startswith(f"{name} is not set; for example {name}=")


def test_all_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """All problems are told at once, one line each."""
    for name in GIVEN:
        monkeypatch.delenv(name)
    assert sorted(line.split()[0] for line in problems()) == sorted(GIVEN)


@pytest.mark.parametrize(("name", "value", "what"), MALFORMED)
def test_malformed(name: str, value: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A malformed setting is one line: its name, what is wrong, an example, never the value."""
    monkeypatch.setenv(name, value)
    (line,) = problems()
    assert line.startswith(f"{name} ")
    assert what in line
    assert re.search(rf"; for example {name}=\S", line)
    assert "\n" not in line
    for secret in (SECRET, KEY[:-1], "zz"):
        assert secret not in line


@pytest.mark.parametrize("wrong", [ADDRESS[:-1] + "4", ADDRESS.replace("FbD", "fBd"), ADDRESS[2:]])
def test_mistyped_address(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address with a wrong checksum, or without 0x, is refused."""
    monkeypatch.setenv("TOKEN_MANAGER_ADDRESS", wrong)
    (line,) = problems()
    assert line.startswith("TOKEN_MANAGER_ADDRESS is no address")


@pytest.mark.parametrize(
    ("name", "value"),
    [("MIN_IMPROVEMENT_PERCENT", "nan"), ("SAGA_RETENTION", "inf"), ("LEASE_SECONDS", "inf")],
)
def test_not_finite(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number that is not finite is refused: nothing compares with nan as an operator means."""
    monkeypatch.setenv(name, value)
    (line,) = problems()
    assert line.startswith(f"{name} is malformed")


def test_every_setting_can_be_wrong() -> None:
    """Each setting that can be malformed has a test above."""
    assert {name for name, _, _ in MALFORMED} | FREE | PATHS == set(Settings.model_fields)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_examples_accepted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example in an error line is accepted as it stands, but for the key's."""
    (example,) = Settings.model_fields[name].examples or []
    if name == "DEPLOYER_PRIVATE_KEY":
        example = KEY
    monkeypatch.setenv(name, example)
    if name in SOURCES and name != "DEPLOYER_PRIVATE_KEY":
        monkeypatch.delenv("DEPLOYER_PRIVATE_KEY")
    if name.startswith("ALERT_") and name != "ALERT_WEBHOOK_URL":
        monkeypatch.setenv("ALERT_WEBHOOK_URL", "https://alerts.example")
    if name == "NATIVE_TOKEN_USD_PATH":
        monkeypatch.setenv("NATIVE_TOKEN_USD_URL", "https://prices.example")
    for source, beside in BESIDE.items():
        if name in (source, *beside):
            monkeypatch.delenv("DEPLOYER_PRIVATE_KEY", raising=False)
            for other in {source, *beside} - {name}:
                monkeypatch.setenv(other, (Settings.model_fields[other].examples or [""])[0])
    found = Settings() if name in TLS else load(Settings)
    assert getattr(found, name) is not None


def test_secrets_hidden() -> None:
    """Printing the settings shows no secret."""
    shown = repr(load(Settings)) + str(load(Settings))
    assert SECRET not in shown
    assert KEY not in shown
    assert "REDIS_URL=SecretStr('**********')" in shown


@pytest.mark.parametrize("second", [name for name in SOURCES if name != "DEPLOYER_PRIVATE_KEY"])
def test_two_sources(second: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two places for the key refuse the start, and both are named."""
    monkeypatch.setenv(second, (Settings.model_fields[second].examples or [""])[0])
    line = problems()[0]
    assert line.startswith(f"DEPLOYER_PRIVATE_KEY and {second} are set, and only one key source")
    assert KEY not in line


@pytest.mark.parametrize(
    ("source", "beside"), [(source, name) for source, names in BESIDE.items() for name in names]
)
def test_half_a_source(source: str, beside: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source without what it needs is refused, and so is what means nothing without it."""
    monkeypatch.setenv(beside, "/x")
    assert problems() == [f"{beside} means nothing without {source}; set both or neither"]
    monkeypatch.delenv(beside)
    monkeypatch.delenv("DEPLOYER_PRIVATE_KEY")
    monkeypatch.setenv(source, "/x")
    assert f"{beside} is not set; {source} needs it" in problems()


def test_two_prices(monkeypatch: pytest.MonkeyPatch) -> None:
    """A price and a place to ask for it are one too many; the place is never shown."""
    monkeypatch.setenv("NATIVE_TOKEN_USD", "3000")
    monkeypatch.setenv("NATIVE_TOKEN_USD_URL", f"https://prices.example/?api_key={SECRET}")
    (line,) = problems()
    assert line.startswith("NATIVE_TOKEN_USD and NATIVE_TOKEN_USD_URL are set, and only one may be")
    assert SECRET not in line


def test_path_into_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A path means nothing where nothing is asked, and is told of with all other problems."""
    monkeypatch.setenv("NATIVE_TOKEN_USD_PATH", "data.amount")
    told = "NATIVE_TOKEN_USD_PATH means nothing without NATIVE_TOKEN_USD_URL; set both or neither"
    assert problems() == [told]
    monkeypatch.setenv("MAX_RETRIES", "-1")
    assert told in problems()
    assert len(problems()) == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALERT_WEBHOOK_SECRET", SECRET * 3),
        ("ALERT_QUEUE_DEPTH", "5"),
        ("ALERT_STALL_MINUTES", "0.5"),
    ],
)
def test_alerts_to_nowhere(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks for an alert without saying where to send it would believe to be told."""
    monkeypatch.setenv(name, value)
    told = f"{name} means nothing without ALERT_WEBHOOK_URL; set both or neither"
    assert problems() == [told]
    monkeypatch.setenv("ALERT_WEBHOOK_URL", f"https://hooks.example/{SECRET}")
    assert SECRET not in repr(load(Settings))


def test_price_url(monkeypatch: pytest.MonkeyPatch) -> None:
    """A price's URL is taken as it is, commas and all, and shows as stars."""
    url = f"https://prices.example/v1?ids=ethereum,matic&api_key={SECRET}"
    monkeypatch.setenv("NATIVE_TOKEN_USD_URL", url)
    found = load(Settings)
    assert found.NATIVE_TOKEN_USD_URL is not None
    assert found.NATIVE_TOKEN_USD_URL.get_secret_value() == url
    assert SECRET not in repr(found) + str(found)


def test_secret_is_taken_once() -> None:
    """After one reader took the key out, the settings do not hold it; nothing ever copies it."""
    secret = load(Settings).DEPLOYER_PRIVATE_KEY
    assert secret is not None
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    assert secret.take() == KEY
    with pytest.raises(RuntimeError, match="taken out already"):
        secret.take()
    assert KEY not in repr(secret) + str(secret) + f"{secret}"


def test_defaults() -> None:
    """What is not set has these defaults."""
    found = load(Settings)
    assert found.INBOUND_QUEUE == "hokusai:model_ready_queue"
    assert found.OUTBOUND_QUEUE == "hokusai:token_deployed_queue"
    assert found.DEPLOY_STRATEGY == "manager"
    assert found.CHAIN_ID is None
    assert found.NETWORK_NAME is None
    assert (found.CONFIRMATIONS, found.MAX_RETRIES, found.MAX_IN_FLIGHT) == (1, 3, 16)
    assert (found.LEASE_SECONDS, found.SAGA_RETENTION) == (30, 30 * 86400)
    assert (found.LOG_LEVEL, found.LOG_FORMAT) == ("INFO", "json")


def test_derived_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processing and dead-letter lists are named after the inbound list."""
    monkeypatch.setenv("INBOUND_QUEUE", "in")
    found = load(Settings)
    assert (found.processing_queue, found.dead_letter_queue) == ("in:processing", "in:dlq")


def test_given_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that are given are taken as they are."""
    monkeypatch.setenv("PROCESSING_QUEUE", "busy")
    monkeypatch.setenv("DLQ_NAME", "dead")
    found = load(Settings)
    assert (found.processing_queue, found.dead_letter_queue) == ("busy", "dead")


def test_checksummed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address in lower case is accepted, and kept in checksummed spelling."""
    monkeypatch.setenv("MODEL_REGISTRY_ADDRESS", ADDRESS.lower())
    assert load(Settings).MODEL_REGISTRY_ADDRESS == ADDRESS


@pytest.mark.parametrize("key", [KEY, KEY[2:], KEY.upper().replace("0X", "0x")])
def test_keys(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key is accepted with and without 0x, in either case."""
    monkeypatch.setenv("DEPLOYER_PRIVATE_KEY", key)
    secret = load(Settings).DEPLOYER_PRIVATE_KEY
    assert secret is not None
    assert secret.peek() == key


def test_store_needs_no_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator's commands need Redis alone."""
    for name in GIVEN:
        if name != "REDIS_URL":
            monkeypatch.delenv(name)
    assert load(StoreSettings).REDIS_URL.get_secret_value() == GIVEN["REDIS_URL"]


def test_env_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A `.env` where the program starts is read, unknown lines skipped; the environment wins."""
    lines = ("MAX_RETRIES=7", "CONFIRMATIONS=7", "UNKNOWN=1")
    (tmp_path / ".env").write_text("\n".join(lines), "utf-8")
    monkeypatch.setenv("CONFIRMATIONS", "9")
    found = load(Settings)
    assert (found.MAX_RETRIES, found.CONFIRMATIONS) == (7, 9)


def test_frozen() -> None:
    """Settings are read once and never change."""
    with pytest.raises(ValueError, match="frozen"):
        load(Settings).MAX_RETRIES = 9


def test_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each setting that decisions depend on reaches the policy."""
    monkeypatch.setenv("MIN_IMPROVEMENT_PERCENT", "0.5")
    monkeypatch.setenv("MAX_MESSAGE_BYTES", "1000")
    monkeypatch.setenv("MAX_RETRIES", "5")
    monkeypatch.setenv("RETRY_BASE_SECONDS", "2")
    monkeypatch.setenv("RETRY_MAX_SECONDS", "20")
    monkeypatch.setenv("RETRY_OVERRIDES", "REGISTERED:max=0")
    monkeypatch.setenv("MAX_CRASHES", "7")
    assert load(Settings).policy("sepolia") == Policy(
        network="sepolia",
        min_improvement_percent=0.5,
        max_message_bytes=1000,
        max_retries=5,
        retry_base_seconds=2.0,
        retry_max_seconds=20.0,
        retry_overrides={"REGISTERED": Override(max_retries=0)},
        max_crashes=7,
    )


def test_table_complete() -> None:
    """The table of the README has one row for each setting, with what it does."""
    rows = settings_table().splitlines()[2:]
    assert len(rows) == len(Settings.model_fields)
    for name, row in zip(Settings.model_fields, rows, strict=True):
        assert row.startswith(f"| `{name}` | ")
        assert row.split("|")[3].strip()
        assert ("| **required** |" in row) == (name in GIVEN and name not in SOURCES)


@pytest.mark.parametrize(
    ("name", "value", "other"),
    [
        ("OUTBOUND_QUEUE", "hokusai:model_ready_queue", "INBOUND_QUEUE"),
        ("FAILURE_QUEUE", "hokusai:token_deployed_queue", "OUTBOUND_QUEUE"),
        ("PROCESSING_QUEUE", "hokusai:token_deployed_queue", "OUTBOUND_QUEUE"),
        ("DLQ_NAME", "hokusai:model_ready_queue:processing", "PROCESSING_QUEUE"),
    ],
)
def test_shared_lists(name: str, value: str, other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two roles on one list are refused by name."""
    monkeypatch.setenv(name, value)
    (line,) = problems()
    assert line.startswith(f"{name} is the same list as {other}; ")


def limits(
    max_fee: float, max_cost: int = 0, usd: str | None = "50", price: str | None = None
) -> Limits:
    """Of the settings; the fee in gwei."""
    return Limits(
        max_fee=int(max_fee * GWEI),
        max_cost=max_cost,
        max_cost_usd=None if usd is None else Decimal(usd),
        native_usd=None if price is None else Decimal(price),
    )


@pytest.mark.parametrize(
    ("chain_id", "given", "allowed", "tip"),
    [
        (1, {}, limits(100), 1_000_000),
        (137, {}, limits(1000), 25 * GWEI),
        (137, {"MAX_FEE_GWEI": "0.5"}, limits(0.5), 25 * GWEI),
        (1, {"MAX_DEPLOYMENT_COST_WEI": "7"}, limits(100, max_cost=7), 1_000_000),
        (1, {"MAX_DEPLOYMENT_COST_USD": "0.07"}, limits(100, usd="0.07"), 1_000_000),
        (1, {"MAX_DEPLOYMENT_COST_USD": "0"}, limits(100, usd=None), 1_000_000),
        (1, {"NATIVE_TOKEN_USD": "3000.5"}, limits(100, price="3000.5"), 1_000_000),
        (1, {"MIN_PRIORITY_FEE_GWEI": "2"}, limits(100), 2 * GWEI),
    ],
)
def test_fees(
    chain_id: int,
    given: dict[str, str],
    allowed: Limits,
    tip: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What may and must be paid is the operator's word, else the network's."""
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = load(Settings)
    assert settings.limits(chain_id) == allowed
    assert settings.tip_floor(chain_id) == tip


def test_endpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several endpoints stand in one setting, in the order of preference."""
    monkeypatch.setenv("WEB3_PROVIDER_URL", "https://one/key, wss://two:8546")
    assert load(Settings).rpc_urls == ["https://one/key", "wss://two:8546"]


def test_finalized(monkeypatch: pytest.MonkeyPatch) -> None:
    """CONFIRMATIONS may name the chain's finalized block instead of a depth."""
    assert load(Settings).CONFIRMATIONS == 1
    monkeypatch.setenv("CONFIRMATIONS", "finalized")
    assert load(Settings).CONFIRMATIONS is None
