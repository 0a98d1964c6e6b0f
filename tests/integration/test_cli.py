"""The command line as an operator meets it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from redis import Redis

from saga.config import Settings
from saga.messages import identify
from tests.support.fleet import Fleet, message

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "tests" / "golden" / "messages" / "model_ready_to_deploy.json"
MakeFleet = Callable[..., Fleet]


def saga(
    environment: Mapping[str, str], *arguments: str, stdin: bytes | None = None, cwd: Path = ROOT
) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [sys.executable, "-m", "saga", *arguments],
        env={**environment, "PYTHONPATH": str(ROOT)},
        input=stdin,
        capture_output=True,
        timeout=110,
        cwd=cwd,
    )


def bare_environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k not in Settings.model_fields}


def test_missing_settings_are_one_line_each(tmp_path: Path) -> None:
    """`saga run` without settings names each one, says what is wrong and gives an example."""
    ended = saga(bare_environment(), "run", cwd=tmp_path)
    assert ended.returncode == 2
    assert ended.stdout == b""
    lines = ended.stderr.decode().splitlines()
    assert lines[0] == "saga: REDIS_URL is not set; for example REDIS_URL=redis://localhost:6379/0"
    assert {line.split()[1] for line in lines} == {
        "REDIS_URL",
        "WEB3_PROVIDER_URL",
        "DEPLOYER_PRIVATE_KEY",
        "MODEL_REGISTRY_ADDRESS",
        "TOKEN_MANAGER_ADDRESS",
    }


def test_settings_are_read_from_a_dotenv_file(tmp_path: Path, fleet_of: MakeFleet) -> None:
    """A `.env` in the working folder serves as the environment does."""
    fleet = fleet_of()
    (tmp_path / ".env").write_text(f"REDIS_URL={fleet.environment['REDIS_URL']}\n", "utf-8")
    ended = saga(bare_environment(), "list", "--json", cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (0, b"")


def test_a_refused_start_names_every_problem(fleet_of: MakeFleet) -> None:
    """`saga run` with a wrong chain, contract and Redis policy refuses, a line for each."""
    stranger = "0x" + "12" * 20
    fleet = fleet_of(MODEL_REGISTRY_ADDRESS=stranger, TOKEN_MANAGER_ADDRESS=stranger)
    with fleet.redis as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            ended = saga(fleet.clean_environment(), "run")
        finally:
            client.config_set("maxmemory-policy", "noeviction")
    assert ended.returncode == 2
    lines = ended.stderr.decode().splitlines()
    assert [line.split(":")[1].strip() for line in lines] == [
        "REDIS_URL",
        "MODEL_REGISTRY_ADDRESS",
        "TOKEN_MANAGER_ADDRESS",
    ]


def test_send_keeps_the_bytes(fleet_of: MakeFleet, tmp_path: Path) -> None:
    """`saga send` puts files, standard input and the lines of .jsonl on the list untouched."""
    fleet = fleet_of()
    odd = tmp_path / "odd.bin"
    odd.write_bytes(b"\xff\x00 not json \n")
    lines = tmp_path / "two.jsonl"
    lines.write_bytes(b'{"a": 1}\n\n{"b": 2}\n')
    environment = fleet.clean_environment()
    assert saga(environment, "send", str(SAMPLE), str(odd), str(lines)).returncode == 0
    assert saga(environment, "send", "-", stdin=b"from stdin").returncode == 0
    with fleet.redis as client:
        found = client.lrange(fleet.settings.INBOUND_QUEUE, 0, -1)
    assert found[::-1] == [
        SAMPLE.read_bytes(),
        b"\xff\x00 not json \n",
        b'{"a": 1}',
        b'{"b": 2}',
        b"from stdin",
    ]


def test_send_refuses_what_it_cannot_read(fleet_of: MakeFleet, tmp_path: Path) -> None:
    """A missing file is one line, and nothing was sent, not even the readable file before it."""
    fleet = fleet_of()
    ended = saga(fleet.clean_environment(), "send", str(SAMPLE), str(tmp_path / "none.json"))
    assert ended.returncode == 1
    assert b"none.json cannot be read: No such file or directory" in ended.stderr
    with fleet.redis as client:
        assert client.llen(fleet.settings.INBOUND_QUEUE) == 0


async def test_list_and_show_tell_states_and_reasons(fleet_of: MakeFleet) -> None:
    """`list` shows each saga with its reason; `show` adds addresses, hashes and the history."""
    good, bad = message("cli-good"), message("cli-bad", token_symbol="no good")
    fleet = fleet_of()
    fleet.start()
    fleet.send([good, bad])
    await fleet.settled([good, bad])
    environment = fleet.clean_environment()
    listed = [json.loads(line) for line in saga(environment, "list", "--json").stdout.splitlines()]
    assert {line["model_id"]: line["state"] for line in listed} == {
        "cli-good": "ACKED",
        "cli-bad": "DEAD_LETTERED",
    }
    dead = saga(environment, "list", "--state", "DEAD_LETTERED", "--json").stdout.splitlines()
    assert [json.loads(line)["id"] for line in dead] == [identify(bad).saga_id]
    shown = json.loads(saga(environment, "show", "cli-good", "--json").stdout)
    assert [entry["kind"] for entry in shown["history"]] == [
        "admitted",
        "moved",
        "intent",
        "intent",
        "moved",
        "moved",
        "moved",
        "moved",
    ]
    assert shown["deployment"]["receipt"]["tx_hash"] in shown["deployment"]["transaction_hashes"]
    text = saga(environment, "show", "cli-bad").stdout.decode()
    assert "DEAD_LETTERED" in text
    assert "token_symbol" in text
    table = saga(environment, "list").stdout.decode()
    assert "cli-good" in table
    assert "cli-bad" in table


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("show", "nothing"), "no saga and no model 'nothing'"),
        (("resume", "nothing"), "no saga and no model 'nothing'"),
        (("resume",), "name sagas or models, or give --all or --state"),
        (("resume", "--state", "ACKED"), "these sagas are finished"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    fleet_of: MakeFleet, arguments: tuple[str, ...], text: str
) -> None:
    """A command that cannot be carried out exits 1 with one line on stderr, none on stdout."""
    ended = saga(fleet_of().clean_environment(), *arguments)
    assert ended.returncode == 1
    assert ended.stdout == b""
    assert text in ended.stderr.decode()
    assert len(ended.stderr.splitlines()) == 1


def test_resume_is_also_installed_as_saga_resume(fleet_of: MakeFleet) -> None:
    """`saga-resume` is `saga resume`."""
    command = Path(sys.executable).parent / "saga-resume"
    ended = subprocess.run(
        [command, "--all", "--json"],
        env=fleet_of().clean_environment(),
        capture_output=True,
        timeout=60,
    )
    assert (ended.returncode, ended.stdout) == (0, b"")


async def test_resume_all_dry_run_changes_nothing(fleet_of: MakeFleet) -> None:
    """A dry run says what would be done, and leaves saga, list and dead letter as they were."""
    bad = message("cli-dry", token_symbol="no good")
    fleet = fleet_of()
    fleet.start()
    fleet.send([bad])
    before = await fleet.settled([bad])
    ended = saga(fleet.clean_environment(), "resume", "--all", "--dry-run", "--json")
    line = json.loads(ended.stdout)
    assert (line["resumes_to"], line["would_send"]) == ("RECEIVED", False)
    assert "would end again: token_symbol" in line["result"]
    after = await fleet.settled([bad])
    assert after.sagas == before.sagas
    assert after.dead_letters == before.dead_letters


def test_the_demo_audits_itself() -> None:
    """`saga demo` ends with the verdict and exit status 0, after a kill in the middle."""
    ended = saga(bare_environment(), "demo", "--json")
    assert ended.returncode == 0, ended.stderr.decode()
    report = json.loads(ended.stdout)
    assert report["findings"] == []
    assert report["killed"]["deployments_in_flight"] >= 1
    assert (report["messages"], report["contracts"], report["events"]) == (12, 7, 7)
    assert report["dead_letters"] == 3


def test_the_kept_demo_can_be_used() -> None:
    """`saga demo --keep` leaves the stack up, and its exports are those of the running stack."""
    ended = saga(bare_environment(), "demo", "--keep", "--json")
    report = json.loads(ended.stdout)
    _, *pids = report["stop"].split()
    try:
        assert ended.returncode == 0
        with Redis.from_url(report["exports"]["REDIS_URL"]) as client:
            assert client.ping()
        listed = saga({**bare_environment(), **report["exports"]}, "list", "--json")
        assert len(listed.stdout.splitlines()) == len(report["sagas"])
    finally:
        for pid in pids:
            os.kill(int(pid), signal.SIGTERM)
