"""The real service as a process, on a real Valkey and a real chain, seen from outside."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from adapters.contracts import GRANT_ROLE, REGISTRAR_ROLE, Function
from adapters.embedded import DEV_ACCOUNT, EmbeddedAnvil, EmbeddedValkey
from adapters.redis_keys import RedisKeys
from saga.audit import audit
from saga.messages import identify
from saga.model import Saga, State
from saga.store import redis_keys
from tests.support.chain import Node
from tests.support.fleet import Fleet, message

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "messages"
MakeFleet = Callable[..., Fleet]
GET_MODEL = Function("getModel(string)", "address,string,string,uint64,bool")
REVOKE_ROLE = Function("revokeRole(bytes32,address)")


def saga_command(fleet: Fleet, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """A command of the CLI in the fleet's environment."""
    return subprocess.run(
        [sys.executable, "-m", "saga", *arguments],
        env=fleet.clean_environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def keys_of(fleet: Fleet) -> RedisKeys:
    return redis_keys(fleet.settings)


async def test_the_sample_becomes_a_token_an_entry_and_an_event(
    service_node: Node, fleet_of: MakeFleet
) -> None:
    """The requirement's sample gives, within three blocks, all that the requirement says."""
    fleet = fleet_of()
    fleet.start()
    await fleet.until_started()
    sample = (GOLDEN / "model_ready_to_deploy.json").read_bytes()
    before = service_node.block_number
    fleet.send([sample])
    evidence = await fleet.settled([sample])
    assert audit(evidence) == []
    event = json.loads(evidence.events[0])
    expected = json.loads((GOLDEN / "token_deployed.json").read_bytes())
    assert event.keys() == {*expected, "deployment_cost_wei"}
    for name in ("event_type", "model_id", "token_symbol", "token_name", "mlflow_run_id"):
        assert event[name] == expected[name]
    for name in ("model_name", "model_version", "performance_metric", "performance_improvement"):
        assert event[name] == expected[name]
    entered = service_node.request("eth_getTransactionReceipt", event["registry_transaction_hash"])
    assert int(entered["blockNumber"], 16) - before <= 3
    receipt = service_node.request("eth_getTransactionReceipt", event["transaction_hash"])
    assert event["block_number"] == int(receipt["blockNumber"], 16)
    assert event["gas_used"] == str(int(receipt["gasUsed"], 16))
    assert event["gas_price"] == str(int(receipt["effectiveGasPrice"], 16))
    costs = [service_node.cost(event[f"{each}transaction_hash"]) for each in ("", "registry_")]
    assert event["deployment_cost_wei"] == str(sum(cost.wei for cost in costs))
    assert event["contributor_address"] == "0x742D35cC6634C0532925a3b844BC9E7595f82b3d"
    assert event["network"] == "localhost"
    address = event["token_address"]
    assert service_node.name(address) == "Hokusai Model 123"
    assert service_node.symbol(address) == "HKAI-123"
    assert service_node.controller(address) == service_node.manager
    call = {"to": service_node.registry, "data": GET_MODEL.encode("model_123")}
    entry = GET_MODEL.decode(service_node.request("eth_call", call, "latest"))
    assert (entry[0], entry[1], entry[2], entry[4]) == (address, "accuracy", "run_abc123", True)
    shown = json.loads(saga_command(fleet, "show", "model_123", "--json").stdout)
    assert shown["state"] == "ACKED"
    assert shown["token_address"] == address
    assert shown["cost"]["gas_used"] == sum(cost.gas for cost in costs)
    assert shown["cost"]["fees_wei"] == event["deployment_cost_wei"]


async def test_the_real_messages_end_as_the_rules_say(fleet_of: MakeFleet) -> None:
    """Each of the nine real messages ends in a state that its reason explains."""
    lines = (GOLDEN / "real_messages.jsonl").read_text("utf-8").splitlines()
    cases = [json.loads(line) for line in lines]
    sent = [case["raw"].encode() for case in cases]
    fleet = fleet_of()
    fleet.send(sent)
    fleet.start()
    evidence = await fleet.settled(sent)
    assert audit(evidence) == []
    found = {
        case["case"]: evidence.sagas[identify(raw).saga_id]
        for case, raw in zip(cases, sent, strict=True)
    }
    assert {name: (saga.state, saga.error_class) for name, saga in found.items()} == {
        "normal": (State.ACKED, None),
        "no_mlflow_run_id": (State.DEAD_LETTERED, "invalid"),
        "lower_is_better": (State.SKIPPED, "criteria"),
        "unicode": (State.DEAD_LETTERED, "invalid"),
        "nulls": (State.DEAD_LETTERED, "invalid"),
        "hook_normal": (State.DEAD_LETTERED, "conflict"),
        "hook_rmse_higher": (State.DEAD_LETTERED, "conflict"),
        "hook_rich": (State.DEAD_LETTERED, "conflict"),
        "hook_nan": (State.DEAD_LETTERED, "invalid"),
    }
    for saga in found.values():
        shown = saga_command(fleet, "show", saga.id, "--json")
        assert json.loads(shown.stdout).get("error") == saga.error


async def test_sigterm_drains(fleet_of: MakeFleet) -> None:
    """SIGTERM in the middle exits 0 and leaves each saga to be taken up at once."""
    sent = [message(f"drain-{number}") for number in range(12)]
    fleet = fleet_of(SHUTDOWN_GRACE_SECONDS="3", LEASE_SECONDS="60")
    fleet.send(sent)
    fleet.start()
    await fleet.until(in_flight)
    assert fleet.stop() == [0]
    fleet.start()
    # With leases of a minute, only released sagas can be finished before the deadline.
    evidence = await fleet.settled(sent, seconds=30)
    assert audit(evidence) == []
    assert len(evidence.events) == len(sent)


def in_flight(sagas: dict[str, Saga], _depths: dict[str, int]) -> bool:
    return any(saga.deploy is not None and saga.deployment is None for saga in sagas.values())


async def test_sigterm_is_heard_while_redis_hangs(
    fleet_of: MakeFleet, valkey: EmbeddedValkey
) -> None:
    """A Redis that has stopped answering does not keep a replica from ending."""
    fleet = fleet_of(SHUTDOWN_GRACE_SECONDS="3")
    fleet.start()
    await fleet.until_started()
    valkey.pause()
    try:
        assert fleet.stop() == [0]
    finally:
        valkey.go_on()


async def test_replicas_share_one_key(fleet_of: MakeFleet) -> None:
    """Three replicas with one key use each nonce once and leave none out."""
    sent = [message(f"shared-{number}") for number in range(30)]
    fleet = fleet_of(MAX_IN_FLIGHT="0", WORKER_POOL_SIZE="4")
    for _ in range(3):
        fleet.start()
    fleet.send(sent)
    evidence = await fleet.settled(sent)
    assert audit(evidence) == []
    nonces = sorted(
        intent.nonce
        for saga in evidence.sagas.values()
        for intent in (saga.deploy, saga.register)
        if intent is not None
    )
    assert nonces == list(range(nonces[0], nonces[0] + 2 * len(sent)))


async def test_a_stranded_message_is_swept(fleet_of: MakeFleet) -> None:
    """A message that a crash left in the processing list without a saga is taken up."""
    stranded = message("stranded")
    fleet = fleet_of()
    with fleet.redis as client:
        client.lpush(keys_of(fleet).processing, stranded)
    fleet.start()
    evidence = await fleet.settled([stranded])
    assert audit(evidence) == []
    assert evidence.sagas[identify(stranded).saga_id].state is State.ACKED


async def test_redis_may_crash_and_come_back(fleet_of: MakeFleet, valkey: EmbeddedValkey) -> None:
    """A Redis that is killed and restarted from its append-only file delays, and loses nothing."""
    sent = [message(f"redis-{number}") for number in range(20)]
    fleet = fleet_of()
    fleet.send(sent)
    fleet.start()
    await fleet.until(in_flight)
    valkey.kill()
    valkey.start()
    evidence = await fleet.settled(sent)
    assert audit(evidence) == []


async def test_a_revoked_role_is_resumed_after_the_grant(
    service_node: Node, fleet_of: MakeFleet
) -> None:
    """A saga that the chain refuses is dead-lettered with the reason, and resumed from there."""
    raw = message("revoked")
    fleet = fleet_of()
    fleet.start()
    await fleet.until_started()
    set_registrar(service_node, granted=False)
    fleet.send([raw])
    evidence = await fleet.settled([raw])
    saga = evidence.sagas[identify(raw).saga_id]
    assert (saga.state, saga.failed_in) == (State.DEAD_LETTERED, State.TOKEN_DEPLOYED)
    assert saga.error is not None
    assert "AccessControlUnauthorizedAccount" in saga.error
    set_registrar(service_node, granted=True)
    dry = json.loads(saga_command(fleet, "resume", "revoked", "--dry-run", "--json").stdout)
    assert dry["resumes_to"] == "TOKEN_DEPLOYED"
    assert dry["would_send"] is True
    resumed = saga_command(fleet, "resume", "revoked", "--json")
    assert json.loads(resumed.stdout)["result"] == "resumed"
    evidence = await fleet.settled([raw])
    assert evidence.sagas[saga.id].state is State.ACKED
    assert evidence.dead_letters == []
    assert audit(evidence) == []


def set_registrar(node: Node, *, granted: bool) -> None:
    """Give the development key its role on the registry, or take it away; mined on return."""
    change = GRANT_ROLE if granted else REVOKE_ROLE
    data = change.encode(bytes.fromhex(REGISTRAR_ROLE[2:]), DEV_ACCOUNT)
    node.transact(DEV_ACCOUNT, node.registry, data)


async def test_a_node_that_is_away_holds(fleet_of: MakeFleet, service_anvil: EmbeddedAnvil) -> None:
    """While the node does not answer, sagas wait without using up a retry, then go on."""
    sent = [message(f"away-{number}") for number in range(5)]
    fleet = fleet_of(MAX_RETRIES="0")
    fleet.start()
    await fleet.until_started()
    service_anvil.pause()
    try:
        fleet.send(sent)
        await fleet.until(held)
    finally:
        service_anvil.go_on()
    evidence = await fleet.settled(sent)
    assert audit(evidence) == []
    assert {saga.state for saga in evidence.sagas.values()} == {State.ACKED}


def held(sagas: dict[str, Saga], _depths: dict[str, int]) -> bool:
    return any((saga.error or "").startswith("held: ") for saga in sagas.values())
