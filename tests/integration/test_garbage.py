"""Whatever is on the inbound list, the worker lives and the bytes are kept."""

import base64
import json
import random
from collections.abc import Callable
from pathlib import Path

from saga.model import State
from tests.support.fleet import Fleet, message, payload

MESSAGES = 10_000
GROWTH_BYTES = 50 * 1024 * 1024


def garbage(rng: random.Random, number: int) -> bytes:
    """Bytes, none alike, none of them a valid message."""
    unique = f"{number}-{rng.getrandbits(64):x}"
    field, value = rng.choice(
        [
            ("model_id", ["a", "list"]),
            ("token_symbol", "no good!"),
            ("baseline_value", "0.8"),
            ("current_value", True),
            ("current_value", 10**400),
            ("improvement_percentage", -3),
            ("contributor_address", "vitalik.eth"),
            ("message_version", "2.0"),
            ("mlflow_run_id", None),
        ]
    )
    wrong = payload(unique) | {field: value}
    kinds: list[Callable[[], bytes]] = [
        lambda: rng.randbytes(rng.randint(1, 300)) + unique.encode(),
        lambda: message(unique)[: rng.randint(1, 60)] + unique.encode(),
        lambda: json.dumps(wrong).encode(),
        lambda: json.dumps([unique]).encode(),
        lambda: json.dumps(unique).encode(),
        lambda: b"[" * rng.randint(100, 150_000) + unique.encode(),
        lambda: json.dumps({"note": unique, "n": 10 ** rng.randint(300, 900)}).encode(),
        lambda: message(unique, notes="x" * rng.randint(70_000, 90_000)),
        lambda: json.dumps(payload(unique) | {"current_value": float("nan")}).encode(),
    ]
    return rng.choices(kinds, weights=[30, 20, 30, 5, 5, 1, 4, 1, 5])[0]()


async def test_garbage_ends_in_the_dead_letters_with_reasons(
    fleet_of: Callable[..., Fleet],
) -> None:
    """Ten thousand messages that are none are all kept with a reason, in constant memory."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    fleet = fleet_of()
    replica = fleet.start()
    await fleet.until_started()
    warm_up = [garbage(rng, -1 - number) for number in range(200)]
    fleet.send(warm_up)
    await fleet.until_counted(State.DEAD_LETTERED, len(warm_up))
    before = resident_bytes(replica.pid)
    sent = [garbage(rng, number) for number in range(MESSAGES)]
    for start in range(0, MESSAGES, 1000):
        fleet.send(sent[start : start + 1000])
    await fleet.until_counted(State.DEAD_LETTERED, len(warm_up) + MESSAGES)
    grown = resident_bytes(replica.pid) - before
    letters = [json.loads(letter) for letter in await fleet.dead_letters()]
    originals = {original_bytes(letter) for letter in letters}
    assert originals == set(sent) | set(warm_up)
    assert all(letter["error"] and letter["error_class"] == "invalid" for letter in letters)
    assert replica.poll() is None
    assert grown < GROWTH_BYTES
    alive = message("after-the-garbage")
    fleet.send([alive])
    await fleet.until_counted(State.ACKED, 1)


def original_bytes(letter: dict[str, str]) -> bytes:
    if "original_message_base64" in letter:
        return base64.b64decode(letter["original_message_base64"])
    return letter["original_message"].encode()


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
    return pages * 4096
