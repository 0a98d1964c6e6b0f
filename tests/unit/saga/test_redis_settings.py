"""Where Redis is and how it is talked to. No test sees the machine's environment or a `.env`."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from saga.redis_settings import RedisSettings, redis_problems
from saga.redis_url import Login, RedisServer, Sentinels, check_redis_url, parse_sentinels
from saga.settings_table import settings_table

SECRET = "hunter2"
PLAIN = f"redis://:{SECRET}@redis.example:6379/0"
TLS = f"rediss://user:{SECRET}@redis.example:6379/0"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in RedisSettings.model_fields:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def settings(url: str, **given: Any) -> RedisSettings:
    return RedisSettings.model_validate({"REDIS_URL": url, **given})


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "redis://localhost",
        PLAIN,
        "redis://user:p%2Fw%3F%23@[::1]:6379/15?protocol=2",
        TLS,
        "unix:///run/redis.sock?db=1",
        f"unix://user:{SECRET}@/run/redis.sock",
        "redis+sentinel://a:26379/main",
    ],
)
def test_good_urls(url: str) -> None:
    """What redis-py understands is accepted as it is."""
    assert check_redis_url(SecretStr(url)).get_secret_value() == url


def test_sentinels() -> None:
    """Each part of a sentinel URL is found, and what is escaped is what it stands for."""
    url = (
        f"rediss+sentinel://us%40er:p%2F{SECRET}@one:26379,[::1]:26380/my%20main/3"
        "?sentinel_username=watch&sentinel_password=p%3F"
    )
    assert parse_sentinels(url) == Sentinels(
        hosts=(("one", 26379), ("::1", 26380)),
        service="my main",
        db=3,
        login=Login("us@er", f"p/{SECRET}"),
        sentinel_login=Login("watch", "p?"),
        tls=True,
    )


def test_sentinels_at_least() -> None:
    """Without users the sentinels and the primary are asked without one."""
    nobody = Login(None, None)
    assert parse_sentinels("redis+sentinel://a:1/main") == Sentinels(
        hosts=(("a", 1),), service="main", db=0, login=nobody, sentinel_login=nobody, tls=False
    )


def test_no_secret_in_a_repr() -> None:
    """Nothing that holds a password shows it."""
    url = f"redis+sentinel://u:{SECRET}@a:1/main?sentinel_password={SECRET}"
    found = parse_sentinels(url)
    for each in (found, found.login, found.sentinel_login, RedisServer(url), settings(url)):
        assert SECRET not in repr(each)
        assert SECRET not in str(each)


@pytest.mark.parametrize("url", [PLAIN, f"redis+sentinel://:{SECRET}@a:1/main"])
@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"APP_ENV": "production"}, "APP_ENV=production"),
        ({"REDIS_REQUIRE_TLS": "true"}, "REDIS_REQUIRE_TLS"),
    ],
)
def test_plain_text_is_refused(url: str, given: dict[str, str], why: str) -> None:
    """Production, or whoever asks for it, does not talk to Redis in plain text."""
    (line,) = redis_problems(settings(url, **given))
    assert line == (
        f"REDIS_URL goes over the network in plain text, which {why} refuses; begin it with "
        "rediss:// or rediss+sentinel://, or set REDIS_REQUIRE_TLS=false"
    )


@pytest.mark.parametrize(
    ("url", "given"),
    [
        (PLAIN, {}),
        (PLAIN, {"APP_ENV": "staging"}),
        (PLAIN, {"APP_ENV": "production", "REDIS_REQUIRE_TLS": "false"}),
        (TLS, {"APP_ENV": "production"}),
        ("rediss+sentinel://a:1/main", {"REDIS_REQUIRE_TLS": "true"}),
        ("unix:///run/redis.sock", {"APP_ENV": "production"}),
    ],
)
def test_what_is_no_plain_text(url: str, given: dict[str, str]) -> None:
    """TLS and a unix socket are fine in production; elsewhere, and by order, so is plain text."""
    assert redis_problems(settings(url, **given)) == []


def test_files_without_tls(tmp_path: Path) -> None:
    """Files for TLS say that TLS was meant: without it they are a mistake."""
    (line,) = redis_problems(settings(PLAIN, REDIS_CA_FILE=_file(tmp_path, "")))[:1]
    assert line.startswith("REDIS_CA_FILE: nothing without TLS; begin REDIS_URL with rediss://")


@pytest.mark.parametrize("name", ["REDIS_CERT_FILE", "REDIS_KEY_FILE"])
def test_half_a_certificate(tmp_path: Path, name: str) -> None:
    """A certificate and its key go together."""
    assert redis_problems(settings(TLS, **{name: _file(tmp_path, "")})) == [
        "REDIS_CERT_FILE and REDIS_KEY_FILE go together; set both or neither"
    ]


def test_files_that_are_none(tmp_path: Path) -> None:
    """A file that cannot be read, or is no PEM, is a line that names its setting."""
    missing = str(tmp_path / "missing.pem")
    assert redis_problems(settings(TLS, REDIS_CA_FILE=missing)) == [
        f"REDIS_CA_FILE: {missing} cannot be read (No such file or directory)"
    ]
    garbage = _file(tmp_path, "garbage")
    given = dict.fromkeys(("REDIS_CA_FILE", "REDIS_CERT_FILE", "REDIS_KEY_FILE"), garbage)
    assert redis_problems(settings(TLS, **given)) == [
        f"REDIS_CA_FILE: {garbage} holds no certificate in PEM form",
        (
            f"REDIS_CERT_FILE, REDIS_KEY_FILE: {garbage} and {garbage} are no certificate and its "
            "key in PEM form, the key without a password"
        ),
    ]


def test_malformed_durability() -> None:
    """Only what is known counts as durable."""
    with pytest.raises(ValidationError, match="REDIS_DURABILITY"):
        settings(PLAIN, REDIS_DURABILITY="paper")


def _file(folder: Path, text: str) -> str:
    path = folder / "file.pem"
    path.write_text(text, "utf-8")
    return str(path)


def test_in_the_table() -> None:
    """The settings are in the README's table."""
    table = settings_table()
    assert [name for name in RedisSettings.model_fields if f"| `{name}` |" not in table] == []
