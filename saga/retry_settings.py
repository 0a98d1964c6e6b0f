"""Settings that say how often what fails is tried again, and when it is given up."""

import math
from typing import Annotated

from pydantic import AfterValidator
from pydantic_settings import BaseSettings

from saga.model import State
from saga.policy import Override
from saga.setting import CONFIG, setting

_STATES = [state.value for state in State if not state.terminal]
_KEYS = {"max": "max_retries", "base": "base_seconds", "cap": "cap_seconds"}


def parse_overrides(text: str) -> dict[str, Override]:
    """`STATE:max=8,base=2,cap=300;STATE:…`. Raises ValueError with what is wrong, and where."""
    overrides: dict[str, Override] = {}
    for part in text.split(";") if text.strip() else []:
        state, colon, rest = (piece.strip() for piece in part.partition(":"))
        if not colon:
            raise ValueError(f"has {part.strip()!r} where STATE:max=…,base=…,cap=… is wanted")
        if state not in _STATES:
            raise ValueError(f"names the state {state!r}; it must be one of {', '.join(_STATES)}")
        if state in overrides:
            raise ValueError(f"names the state {state} twice; put all of it in one place")
        overrides[state] = _override(state, rest)
    return overrides


def _override(state: str, text: str) -> Override:
    given: dict[str, int | float] = {}
    for pair in text.split(","):
        key, _, value = (piece.strip() for piece in pair.partition("="))
        if key not in _KEYS:
            raise ValueError(f"has the key {key!r} for {state}; it must be one of max, base, cap")
        if _KEYS[key] in given:
            raise ValueError(f"has the key {key} for {state} twice")
        given[_KEYS[key]] = _count(state, value) if key == "max" else _span(state, key, value)
    return Override(**given)  # type: ignore[arg-type]  # `max` alone is a count


def _count(state: str, value: str) -> int:
    if not (value.isascii() and value.isdecimal()):
        raise ValueError(f"has max={value} for {state}; it must be a whole number, 0 or more")
    return int(value)


def _span(state: str, key: str, value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ValueError(f"has {key}={value} for {state}; it must be a number of seconds above 0")
    return seconds


def check_overrides(text: str) -> str:
    parse_overrides(text)
    return text


class RetrySettings(BaseSettings):
    """What failed for a while is repeated, what kills its workers is not."""

    model_config = CONFIG

    MAX_RETRIES: int = setting(
        3, "failed tries of a step, after the first, before it is dead-lettered", "3", ge=0
    )
    RETRY_BASE_SECONDS: float = setting(
        1.0,
        "longest wait before the first retry; doubles with each. The wait is anything up to that "
        "(full jitter)",
        "1",
        gt=0,
    )
    RETRY_MAX_SECONDS: float = setting(60.0, "longest wait before any retry", "60", gt=0)
    RETRY_OVERRIDES: Annotated[str, AfterValidator(check_overrides)] = setting(
        "",
        "other values in some states: `max` for MAX_RETRIES, `base` for RETRY_BASE_SECONDS, `cap` "
        "for RETRY_MAX_SECONDS, as `VALIDATED:max=8,base=2,cap=300;TOKEN_DEPLOYED:max=10`",
        "VALIDATED:max=8,base=2,cap=300;TOKEN_DEPLOYED:max=10",
    )
    MAX_CRASHES: int = setting(
        5,
        "a saga whose worker died so often in one state is dead-lettered as `poison`; 0: never",
        "5",
        ge=0,
    )
