import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from saga.events import (
    NETWORK_NAMES,
    TokenDeployedMessage,
    encode,
    network_name,
    utc_timestamp,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "messages"
HASHES = {"transaction_hash": "0x" + "1a" * 32, "registry_transaction_hash": "0x" + "2b" * 32}
COST = json.loads((GOLDEN / "token_deployed_cost.json").read_bytes())
SAMPLE = {**json.loads((GOLDEN / "token_deployed.json").read_bytes()), **HASHES}


def event(**changes: Any) -> TokenDeployedMessage:
    constants = ("event_type", "message_version")
    given = {name: value for name, value in SAMPLE.items() if name not in constants}
    return TokenDeployedMessage(**{**given, **changes})


def test_sample() -> None:
    """An event has exactly the requirement's fields, in its order, and nothing else."""
    assert encode(event()) == json.dumps(SAMPLE, separators=(",", ":")).encode()


def test_constants_always_there() -> None:
    """Event type and message version are in every event, though nobody has to give them."""
    found = json.loads(encode(event()))
    assert (found["event_type"], found["message_version"]) == ("token_deployed", "1.0")


def test_no_contributor() -> None:
    """An absent contributor is left out, the other fields keep their order."""
    found = json.loads(encode(event(contributor_address=None)))
    assert list(found) == [name for name in SAMPLE if name != "contributor_address"]


def test_cost() -> None:
    """What a deployment cost stands before the version, each of the two only where it is known."""
    names = ("deployment_cost_wei", "deployment_cost_usd")
    assert encode(event(**{name: COST[name] for name in names})) == as_sent({**COST, **HASHES})
    wei = {name: value for name, value in COST.items() if name != "deployment_cost_usd"}
    assert encode(event(deployment_cost_wei=COST["deployment_cost_wei"])) == as_sent(
        {**wei, **HASHES}
    )


def as_sent(sample: dict[str, Any]) -> bytes:
    return json.dumps(sample, separators=(",", ":")).encode()


def test_rebuilt() -> None:
    """An event rebuilt from its own bytes gives the same bytes."""
    raw = encode(
        event(
            model_name="模型 🎨",
            performance_improvement=-0.1 + 0.3,
            deployment_cost_wei="0",
            deployment_cost_usd="0.000000",
        )
    )
    assert encode(msgspec.json.decode(raw, type=TokenDeployedMessage)) == raw


def test_sample_decodes() -> None:
    """The structs accept the requirement's sample by their own constraints."""
    decoded = msgspec.json.decode(json.dumps(SAMPLE), type=TokenDeployedMessage)
    assert decoded == event()


@pytest.mark.parametrize(
    ("chain_id", "name"),
    [
        (1, "ethereum"),
        (10, "optimism"),
        (137, "polygon"),
        (1337, "localhost"),
        (8453, "base"),
        (17000, "holesky"),
        (31337, "localhost"),
        (42161, "arbitrum"),
        (80002, "polygon-amoy"),
        (84532, "base-sepolia"),
        (560048, "hoodi"),
        (11155111, "sepolia"),
        (424242, "chain-424242"),
    ],
)
def test_network_name(chain_id: int, name: str) -> None:
    """Known chains go by name, others by number."""
    assert network_name(chain_id) == name


def test_network_override() -> None:
    """The operator's name for a network comes first; an empty one is none."""
    assert network_name(1, "mainnet") == "mainnet"
    assert network_name(1, "") == "ethereum"


def test_network_names_frozen() -> None:
    """Nobody can rename a network at run time."""
    with pytest.raises(TypeError):
        NETWORK_NAMES[1] = "x"  # type: ignore[index]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "1970-01-01T00:00:00Z"), (1706349690, "2024-01-27T10:01:30Z")],
)
def test_utc_timestamp(seconds: int, text: str) -> None:
    """A block's time is told in UTC, to the second."""
    assert utc_timestamp(seconds) == text
