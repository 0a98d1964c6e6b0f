import msgspec
import pytest

from saga.adoption import LABELS, Traits, differing

OURS = Traits(
    code_hash="0x11",
    name="Hokusai Model 1",
    symbol="HKAI-1",
    model_id="model_1",
    mlflow_run_id="run_1",
    controller="0xAb",
    owner="0xAb",
)


def test_same() -> None:
    """A token that is the same in every trait differs in nothing."""
    assert differing(msgspec.structs.replace(OURS), OURS) == []


def test_every_trait_is_labelled() -> None:
    """No trait is left out of the comparison."""
    assert set(LABELS) == set(Traits.__struct_fields__)


@pytest.mark.parametrize("field", LABELS)
def test_another(field: str) -> None:
    """Each trait that is another is named, theirs against ours."""
    theirs: Traits = msgspec.structs.replace(OURS, **{field: "another"})
    expected = f"{LABELS[field]} 'another' instead of {getattr(OURS, field)!r}"
    assert differing(theirs, OURS) == [expected]


def test_unsaid_and_endless() -> None:
    """What a contract does not say is `none`; what it says at length is cut."""
    theirs = msgspec.structs.replace(OURS, owner=None, symbol="x" * 10_000)
    assert differing(theirs, OURS) == [
        f"symbol '{'x' * 77}...' instead of 'HKAI-1'",
        "owner none instead of '0xAb'",
    ]
