"""Which dead letters a command is about."""

from typing import Any

import pytest

from adapters.letter_codec import read_letter
from adapters.redis_codec import dead_letter
from adapters.redis_dlq import Entry
from saga.cli.dlq_choice import Choice
from saga.errors import UsageError
from saga.model import State
from tests.support.sagas import MESSAGE, OWN, make

NOW = 1_767_323_045  # 2026-01-02T03:04:05Z


def entry(failed_at: str = "2026-01-02T02:04:05Z", *, raw: bytes | None = None) -> Entry:
    letter = read_letter(
        raw
        or dead_letter(
            make(State.VALIDATED),
            error="no",
            error_class="reverted",
            failed_at=failed_at,
            queue="in",
        ),
        1,
    )
    return Entry(
        letter=letter,
        kind="ours" if letter.ours else "foreign",
        state=None,
        tries=None,
        model_id=letter.model_id,
        discarded=None,
    )


def choice(**options: Any) -> Choice:
    defaults = dict.fromkeys(("error_class", "model", "older_than", "state"))
    return Choice.of(**{"all_": False, **defaults, **options})


@pytest.mark.parametrize(
    ("options", "taken"),
    [
        ({"all_": True}, True),
        ({"error_class": "reverted"}, True),
        ({"error_class": "foreign"}, False),
        ({"model": "model_123"}, True),
        ({"model": "model_12"}, False),
        ({"state": State.VALIDATED}, True),
        ({"state": State.RECEIVED}, False),
        ({"older_than": "60m"}, True),
        ({"older_than": "3601s"}, False),
        ({"older_than": "1d", "model": "model_123"}, False),
        ({"ids": [OWN]}, True),
        ({"ids": ["model_123", "x"]}, True),
        ({"ids": ["x"]}, False),
    ],
)
def test_filters(options: dict[str, Any], taken: bool) -> None:
    """All filters must agree; an id is one of the saga, the model, or the letter."""
    assert choice(**options).takes(entry(), NOW) is taken


@pytest.mark.parametrize("failed_at", ["", "yesterday", "2026-13-01T00:00:00Z", "9" * 400])
def test_unknown_age(failed_at: str) -> None:
    """A letter that does not say when it failed is not old."""
    assert not choice(older_than="0s").takes(entry(failed_at), NOW)


@pytest.mark.parametrize("failed_at", ["2026-01-02T02:04:05", "2026-01-02T04:04:05+02:00"])
def test_zones(failed_at: str) -> None:
    """A time without zone is UTC, as the producers write it."""
    assert choice(older_than="1h").takes(entry(failed_at), NOW)


def test_foreign() -> None:
    """Foreign entries are a class of their own, found by the saga that they would become."""
    foreign = entry(raw=MESSAGE)
    assert choice(error_class="foreign").takes(foreign, NOW)
    assert choice(ids=[foreign.letter.id]).takes(foreign, NOW)
    assert choice(ids=[foreign.letter.saga_id]).takes(foreign, NOW)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "--all or a filter"),
        ({"ids": ["x"], "all_": True}, "not both"),
        ({"ids": ["x"], "model": "m"}, "not both"),
        ({"older_than": "5y"}, "--older-than: '5y' is no age"),
        ({"older_than": "-1h"}, "is no age"),
        ({"older_than": ""}, "is no age"),
        ({"older_than": "1h\n"}, "is no age"),
    ],
)
def test_refused(options: dict[str, Any], text: str) -> None:
    """What makes no sense is one line that names the option."""
    with pytest.raises(UsageError, match=text) as caught:
        choice(**options)
    assert "\n" not in str(caught.value)
