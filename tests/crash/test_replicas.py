"""Two replicas on one key, one of them killed with SIGKILL again and again."""

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adapters.embedded import DEV_MNEMONIC_KEY, EmbeddedAnvil, EmbeddedValkey
from saga.audit import Evidence, audit
from saga.cli.contracts import deploy
from saga.messages import identify
from saga.model import Saga, State
from tests.support.fleet import Fleet, message

MESSAGES = 60
KILL_EVERY_SECONDS = 1.0
MAX_KILLS = 12


@pytest.fixture
def parts() -> Iterator[tuple[EmbeddedValkey, EmbeddedAnvil, dict[str, str]]]:
    """A Valkey and a chain of this test's own, with the contracts deployed."""
    with EmbeddedValkey() as valkey, EmbeddedAnvil() as anvil:
        contracts = deploy(anvil.url, DEV_MNEMONIC_KEY)
        anvil.request("evm_setIntervalMining", 1)
        yield valkey, anvil, contracts


def killer(fleet: Fleet, rng: random.Random) -> Callable[[], None]:
    """Kills a random replica each second, and starts another in its place.

    A replica that comes up just after a FLUSHALL may find transactions on the node that Redis knows
    nothing of; it refuses to start, and is started again.
    """
    last = [time.monotonic()]

    def strike() -> None:
        fleet.supervise()
        due = time.monotonic() - last[0] > KILL_EVERY_SECONDS
        if due and fleet.alive and fleet.kills < MAX_KILLS:
            last[0] = time.monotonic()
            fleet.kill(rng.choice(fleet.alive))
            fleet.start()

    return strike


def assert_one_each(evidence: Evidence, models: int) -> None:
    assert audit(evidence) == []
    assert len(evidence.contracts) == models
    assert len(evidence.events) == models


@pytest.mark.parametrize("strategy", ["manager", "create2"])
async def test_sigkills_of_replicas_neither_lose_nor_repeat(
    parts: tuple[EmbeddedValkey, EmbeddedAnvil, dict[str, str]], tmp_path: Path, strategy: str
) -> None:
    """Whatever replica dies when, each model gets one token, one entry, one event."""
    valkey, anvil, contracts = parts
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    sent = [message(f"model-{number}") for number in range(MESSAGES)]
    with Fleet(valkey.url, anvil.url, contracts, tmp_path, DEPLOY_STRATEGY=strategy) as fleet:
        fleet.start()
        fleet.start()
        fleet.send(sent)
        evidence = await fleet.settled(sent, each=killer(fleet, random.Random(seed)))
        assert fleet.kills > 3
        assert {saga.state for saga in evidence.sagas.values()} == {State.ACKED}
        assert_one_each(evidence, MESSAGES)


@pytest.mark.parametrize("strategy", ["manager", "create2"])
async def test_a_wiped_redis_makes_no_second_contract(
    parts: tuple[EmbeddedValkey, EmbeddedAnvil, dict[str, str]], tmp_path: Path, strategy: str
) -> None:
    """After FLUSHALL and redelivery, found tokens are adopted and changed content is refused."""
    valkey, anvil, contracts = parts
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    models = [f"model-{number}" for number in range(MESSAGES)]
    first = [message(model) for model in models]
    changed = set(rng.sample(models, 10)) if strategy == "manager" else set()
    again = [
        message(model, mlflow_run_id="other", token_symbol="OTHER")
        if model in changed
        else message(model)
        for model in models
    ]
    with Fleet(valkey.url, anvil.url, contracts, tmp_path, DEPLOY_STRATEGY=strategy) as fleet:
        fleet.start()
        fleet.start()
        fleet.send(first)
        strike = killer(fleet, rng)
        await fleet.until(some_done, each=strike)
        with fleet.redis as client:
            client.flushall()
        fleet.send(again)
        evidence = await fleet.settled(again, each=strike)
    # A changed message for a model whose first transaction never left is that model's own.
    assert audit(evidence) == []
    assert all(len(found) == 1 for found in evidence.contracts.values())
    assert set(evidence.contracts) == set(models)
    for raw in again:
        saga = evidence.sagas[identify(raw).saga_id]
        refused = saga.state is State.DEAD_LETTERED and saga.error_class == "conflict"
        explained = saga.state is State.ACKED or (refused and saga.model_id in changed)
        assert explained, (saga.model_id, saga.error_class, saga.error, saga.failed_in)


def some_done(sagas: dict[str, Saga], _depths: dict[str, int]) -> bool:
    """The others are in the middle: not more than sixteen transactions fit in a block's time."""
    return sum(saga.state is State.ACKED for saga in sagas.values()) >= 10
