import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.redis_keys import RedisKeys, lane_name, lane_of
from saga.model import State


def keys(prefix: str) -> RedisKeys:
    return RedisKeys(
        inbound="in", processing="in:p", outbound="out", dead_letters="dlq", prefix=prefix
    )


def everything(found: RedisKeys) -> list[str]:
    return [
        found.saga("x"),
        found.history("x"),
        found.due,
        *(found.index(state) for state in State),
        found.claim("x"),
        found.sagas_of("x"),
        found.price("x"),
        found.price("y"),
        found.totals,
        found.pause,
        found.probe,
        found.event("x"),
        found.events,
        found.republishing("x"),
        found.operation("x"),
        found.audit,
        found.lanes,
        found.lanes_listed,
        found.lane(1, "0xAB"),
        found.nonce(1, "0xAB", 0),
        found.nonce(1, "0xAB", 1),
    ]


def test_below_the_prefix() -> None:
    """All keys but the four lists are below the prefix, and no two are the same."""
    found = everything(keys("team:"))
    assert all(key.startswith("team:") for key in found)
    assert len(set(found)) == len(found)


def test_prefixes_apart() -> None:
    """Two prefixes share no key."""
    assert not set(everything(keys("a:"))) & set(everything(keys("b:")))


def test_scripts_build_the_same() -> None:
    """What scripts build from prefix and suffix are the keys that are built here."""
    found = keys("p:")
    assert found.saga_prefix + "id-1" == found.saga("id-1")
    assert found.event_prefix + "id-1" == found.event("id-1")
    assert found.saga("id-1") + found.HISTORY_SUFFIX == found.history("id-1")
    assert all(found.index_prefix + state == found.index(state) for state in State)


def test_sender_spelling() -> None:
    """A signer has one lane, however its address is spelled."""
    found = keys("p:")
    assert found.lane(1, "0xABcd") == found.lane(1, "0xabCD")
    assert found.lane(1, "0xab") != found.lane(2, "0xab")
    assert found.nonce(1, "0xABcd", 5) == found.nonce(1, "0xabCD", 5)


@given(chain_id=st.integers(0, 9**9), nonce=st.integers(0, 2**53))
def test_nonces_apart(chain_id: int, nonce: int) -> None:
    """Each nonce of each lane has a record of its own, spelled in digits alone."""
    found = keys("p:")
    own = found.nonce(chain_id, "0xab", nonce)
    assert own == f"{found.lane(chain_id, '0xab')}:nonce:{nonce}"
    assert own != found.nonce(chain_id, "0xab", nonce + 1)
    assert own != found.nonce(chain_id + 1, "0xab", nonce)
    assert own != found.nonce(chain_id, "0xac", nonce)


@given(model=st.text())
@pytest.mark.parametrize(
    "other", ["due", "totals", "state:RECEIVED", "id:x", "lane:1:0xab", "lane:1:0xab:nonce:0"]
)
def test_models_apart(other: str, model: str) -> None:
    """No model id, whatever a producer calls it, makes the key of something else."""
    found = keys("p:")
    own = {found.claim(model), found.sagas_of(model)}
    assert len(own) == 2
    assert not own & {f"p:{other}", found.saga(model), found.history(model), found.due}


def test_lanes_by_their_keys() -> None:
    """A lane's key gives its name back; the record of a nonce, and another prefix, give none."""
    found = keys("p:")
    sender = "0x" + "AB" * 20
    assert found.lane_named(found.lane(5, sender)) == lane_name(5, sender)
    for other in (found.nonce(5, sender, 0), keys("q:").lane(5, sender), found.lanes, "p:lane:x"):
        assert found.lane_named(other) is None
    assert keys("[a]*?\\:").lane_pattern == "\\[a\\]\\*\\?\\\\:lane:*"


def test_lane_names() -> None:
    """A lane's name tells its chain and its sender, in small letters; what is none is refused."""
    assert lane_of(lane_name(31337, "0xAB")) == (31337, "0xab")
    with pytest.raises(ValueError, match="x"):
        lane_of("x:0xab")
