"""Settings of the alert webhook: where to, signed with what, and on what besides dead letters."""

from typing import Annotated

from pydantic import AfterValidator, SecretStr
from pydantic_settings import BaseSettings

from saga.checks import check_http_url
from saga.setting import CONFIG, setting

LEAST_SECRET = 16
"""Characters: a shorter one can be found by trying."""


def check_webhook_secret(value: SecretStr | None) -> SecretStr | None:
    """Never quotes it."""
    if value is not None and len(value.get_secret_value()) < LEAST_SECRET:
        raise ValueError(f"must have at least {LEAST_SECRET} characters")
    return value


class AlertSettings(BaseSettings):
    """Without ALERT_WEBHOOK_URL nothing is sent."""

    model_config = CONFIG

    ALERT_WEBHOOK_URL: Annotated[SecretStr | None, AfterValidator(check_http_url)] = setting(
        None,
        "where alerts are POSTed to as JSON, with a `text` as Slack takes it",
        "https://hooks.example.org/services/<key>",
    )
    ALERT_WEBHOOK_SECRET: Annotated[SecretStr | None, AfterValidator(check_webhook_secret)] = (
        setting(
            None,
            "signs them: `X-Signature-256` is `sha256=` and the HMAC of `X-Timestamp`, a dot and "
            "the body",
            "<32-random-characters-of-your-own>",
        )
    )
    ALERT_QUEUE_DEPTH: int = setting(
        0, "alert when more messages than this wait to be taken; 0: off", "1000", ge=0
    )
    ALERT_STALL_MINUTES: float = setting(
        0.0, "alert when no saga has moved for so long while work waits; 0: off", "15", ge=0
    )
    ALERT_REPEAT_MINUTES: float = setting(
        60.0, "the same alert about the same subject at most once in this time", "60", gt=0
    )


def alert_problems(settings: AlertSettings) -> list[str]:
    """What means nothing without a place to send it to: a line for each."""
    if settings.ALERT_WEBHOOK_URL is not None:
        return []
    given = {
        "ALERT_WEBHOOK_SECRET": settings.ALERT_WEBHOOK_SECRET is not None,
        "ALERT_QUEUE_DEPTH": settings.ALERT_QUEUE_DEPTH > 0,
        "ALERT_STALL_MINUTES": settings.ALERT_STALL_MINUTES > 0,
    }
    return [
        f"{name} means nothing without ALERT_WEBHOOK_URL; set both or neither"
        for name, is_given in given.items()
        if is_given
    ]
