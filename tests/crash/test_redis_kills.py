"""Redis killed with SIGKILL again and again, under replicas that must outlive it."""

import asyncio
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.embedded import DEV_MNEMONIC_KEY, EmbeddedAnvil, EmbeddedValkey
from saga.audit import audit
from saga.cli.contracts import deploy
from saga.model import State
from saga.store import redis_keys
from tests.support.fleet import LOOK_SECONDS, Fleet, message

MESSAGES = 100
KILLS = 10
REPLICAS = 2
LEASE_SECONDS = 1
BETWEEN_SECONDS = (0.2, 1.0)
"""From one start of Redis to its next death."""


@pytest.fixture
def parts() -> Iterator[tuple[EmbeddedValkey, EmbeddedAnvil, dict[str, str]]]:
    """A Valkey (AOF, everysec) and a chain of this test's own, with the contracts deployed."""
    with EmbeddedValkey() as valkey, EmbeddedAnvil("--gas-limit", "1000000000") as anvil:
        contracts = deploy(anvil.url, DEV_MNEMONIC_KEY)
        anvil.request("evm_setIntervalMining", 1)
        yield valkey, anvil, contracts


class Killer:
    """Kills Redis when its time has come, and starts it again with what is on its disk."""

    def __init__(self, valkey: EmbeddedValkey, rng: random.Random) -> None:
        self._valkey = valkey
        self._rng = rng
        self.kills = 0
        self._due = 0.0
        self.again()

    def again(self) -> None:
        self._due = time.monotonic() + self._rng.uniform(*BETWEEN_SECONDS)

    def strike(self) -> None:
        if self.kills < KILLS and time.monotonic() > self._due:
            self._valkey.kill()
            self._valkey.start()
            self.kills += 1
            self.again()


async def test_kills_of_redis_neither_lose_nor_repeat(
    parts: tuple[EmbeddedValkey, EmbeddedAnvil, dict[str, str]], tmp_path: Path
) -> None:
    """Ten deaths of Redis in a run of a hundred messages: each model gets one token, one entry,
    one event, and no replica ever ends."""
    valkey, anvil, contracts = parts
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    sent = [message(f"model-{number}") for number in range(MESSAGES)]
    with Fleet(valkey.url, anvil.url, contracts, tmp_path, MAX_IN_FLIGHT="8") as fleet:
        for _ in range(REPLICAS):
            fleet.start()
            await fleet.until_started()
        fleet.send(sent)
        killer = Killer(valkey, random.Random(seed))
        while killer.kills < KILLS:
            killer.strike()
            assert len(fleet.alive) == REPLICAS
            await asyncio.sleep(LOOK_SECONDS)
        assert acked(fleet) < MESSAGES
        evidence = await fleet.settled(sent)
        assert audit(evidence) == []
        assert {saga.state for saga in evidence.sagas.values()} == {State.ACKED}
        assert len(evidence.contracts) == MESSAGES
        assert all(len(found) == 1 for found in evidence.contracts.values())
        assert len(evidence.events) == MESSAGES
        assert fleet.stop() == [0] * REPLICAS


def acked(fleet: Fleet) -> int:
    """How many sagas are done."""
    with fleet.redis as client:
        return int(client.zcard(redis_keys(fleet.settings).index(State.ACKED)))


async def test_an_outage_is_no_crash(
    parts: tuple[EmbeddedValkey, EmbeddedAnvil, dict[str, str]], tmp_path: Path
) -> None:
    """Sagas of replicas that live through outages of Redis longer than their leases are nobody's
    poison, however often that happens."""
    valkey, anvil, contracts = parts
    sent = [message(f"outlived-{number}") for number in range(6)]
    anvil.request("evm_setIntervalMining", 0)
    anvil.request("evm_setAutomine", False)
    leases = {"LEASE_SECONDS": str(LEASE_SECONDS), "MAX_CRASHES": "1"}
    with Fleet(valkey.url, anvil.url, contracts, tmp_path, **leases) as fleet:
        for _ in range(REPLICAS):
            fleet.start()
            await fleet.until_started()
        fleet.send(sent)
        await fleet.until(
            lambda sagas, _: len(sagas) == len(sent) and all(s.register for s in sagas.values())
        )
        with fleet.redis as client:  # all of it is on disk
            client.set("behind", 1)
            assert client.execute_command("WAITAOF", 1, 0, 5000)[0] == 1
        for _ in range(3):
            valkey.kill()
            await asyncio.sleep(1.5 * LEASE_SECONDS)
            valkey.start()
            await asyncio.sleep(3 * LEASE_SECONDS)  # in which what has run out is taken
        anvil.request("evm_setIntervalMining", 1)
        evidence = await fleet.settled(sent)
        assert audit(evidence) == []
        assert {saga.state for saga in evidence.sagas.values()} == {State.ACKED}
        assert len(fleet.alive) == REPLICAS
