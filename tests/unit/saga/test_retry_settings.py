"""The text of RETRY_OVERRIDES."""

import re

import pytest

from saga.policy import Override
from saga.retry_settings import parse_overrides


@pytest.mark.parametrize("text", ["", " "])
def test_none(text: str) -> None:
    """Nothing given, nothing overridden."""
    assert parse_overrides(text) == {}


def test_all_keys() -> None:
    """Each state has its own values, spaces mean nothing."""
    text = " VALIDATED: max=8, base=2.5 ,cap=300 ;TOKEN_DEPLOYED:max=0"
    assert parse_overrides(text) == {
        "VALIDATED": Override(max_retries=8, base_seconds=2.5, cap_seconds=300.0),
        "TOKEN_DEPLOYED": Override(max_retries=0),
    }


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("VALID:max=8", "names the state 'VALID'; it must be one of RECEIVED, VALIDATED, TOKEN"),
        ("ACKED:max=8", "names the state 'ACKED'; it must be one of"),
        ("validated:max=8", "names the state 'validated'"),
        ("VALIDATED:tries=8", "has the key 'tries' for VALIDATED; it must be one of max, base"),
        ("VALIDATED:", "has the key '' for VALIDATED"),
        ("VALIDATED:max=8,", "has the key '' for VALIDATED"),
        ("VALIDATED", "has 'VALIDATED' where STATE:max=…,base=…,cap=… is wanted"),
        ("VALIDATED:max=8;", "has '' where STATE:"),
        ("VALIDATED:max=many", "has max=many for VALIDATED; it must be a whole number, 0 or more"),
        ("VALIDATED:max=-1", "has max=-1 for VALIDATED"),
        ("VALIDATED:max=1.5", "has max=1.5 for VALIDATED"),
        ("VALIDATED:max=", "has max= for VALIDATED"),
        ("VALIDATED:base=0", "has base=0 for VALIDATED; it must be a number of seconds above 0"),
        ("VALIDATED:cap=inf", "has cap=inf for VALIDATED"),
        ("VALIDATED:cap=nan", "has cap=nan for VALIDATED"),
        ("VALIDATED:cap=soon", "has cap=soon for VALIDATED"),
        ("VALIDATED:max=1,max=2", "has the key max for VALIDATED twice"),
        ("VALIDATED:max=1;VALIDATED:base=2", "names the state VALIDATED twice"),
    ],
)
def test_malformed(text: str, told: str) -> None:
    """What is wrong is named, with what is right."""
    with pytest.raises(ValueError, match=re.escape(told)):
        parse_overrides(text)
