"""The whole service: messages that come again, models that are taken, events that are lost."""

import json
from collections.abc import Callable
from typing import Any

from eth_utils.address import to_checksum_address

from adapters.contracts import REGISTER_MODEL
from adapters.embedded import DEV_ACCOUNT
from adapters.strategies import initcode
from saga.audit import audit
from saga.messages import identify, parse
from saga.model import Saga, State
from tests.support.chain import STRANGER, Node
from tests.support.commands import Ended, command
from tests.support.fleet import Fleet, message, payload

MakeFleet = Callable[..., Fleet]


def envelope(message_id: str, retry_count: int, **fields: Any) -> bytes:
    outer = {"message_id": message_id, "message_type": "model_ready_to_deploy"}
    inner = payload("twice", **fields)
    return json.dumps(outer | {"retry_count": retry_count, "payload": inner}).encode()


async def ordered(fleet: Fleet, *arguments: str) -> Ended:
    return await command(fleet.clean_environment(), *arguments)


async def test_events_again(fleet_of: MakeFleet) -> None:
    """A consumer that lost all events has them again, the same bytes in the same order."""
    fleet = fleet_of()
    fleet.start()
    sent = [message(f"again-{number}") for number in range(4)]
    fleet.send(sent)
    evidence = await fleet.settled(sent)
    assert audit(evidence) == []
    outbound = fleet.settings.OUTBOUND_QUEUE
    with fleet.redis as client:
        client.delete(outbound)
        ended = await ordered(fleet, "republish", "--all", "--execute", "--rate", "500/s")
        assert ended.status == 0, ended.err
        assert client.lrange(outbound, 0, -1) == evidence.events
    assert len(evidence.events) == 4


async def test_said_again(fleet_of: MakeFleet) -> None:
    """The same message is one saga however often it comes; a new one with the same content is a
    duplicate of it, one with other content conflicts with it; both say with which saga."""
    fleet = fleet_of()
    first, retried = envelope("m-1", 0), envelope("m-1", 3)
    same, other = envelope("m-2", 0), envelope("m-3", 0, token_symbol="OTHER")
    bare = message("twice-bare")
    fleet.send([first, bare, bare])
    fleet.start()
    await fleet.settled([first, bare])
    fleet.send([first, retried, bare, same, other])
    evidence = await fleet.settled([first, bare, same, other])
    assert audit(evidence) == []
    assert len(evidence.sagas) == 4
    owner = identify(first).saga_id
    assert identify(retried).saga_id == owner
    skipped, conflict = (evidence.sagas[identify(raw).saga_id] for raw in (same, other))
    assert (skipped.state, skipped.error_class) == (State.SKIPPED, "duplicate")
    assert (skipped.duplicate_of, skipped.conflicts_with) == (owner, None)
    assert (conflict.state, conflict.error_class) == (State.DEAD_LETTERED, "conflict")
    assert (conflict.duplicate_of, conflict.conflicts_with) == (None, owner)
    for saga, field in ((skipped, "duplicate_of"), (conflict, "conflicts_with")):
        assert (await ordered(fleet, "show", saga.id, "--json")).document[field] == owner
        assert owner in (await ordered(fleet, "show", saga.id)).out
    listed = (await ordered(fleet, "list", "--state", "SKIPPED", "--json")).document
    assert listed["duplicate_of"] == owner


def stranger_enters(node: Node, model: str, controller: str) -> str:
    """Our token for a model, made by a stranger, entered by a hand that has the role."""
    creation = initcode(parse(message(model)), controller=controller, owner=node.manager)
    receipt = node.transact(STRANGER, None, "0x" + creation.hex())
    token = str(to_checksum_address(receipt["contractAddress"]))
    node.transact(
        DEV_ACCOUNT, node.registry, REGISTER_MODEL.encode(model, token, "accuracy", f"run-{model}")
    )
    return token


async def test_taken_by_another_hand(service_node: Node, fleet_of: MakeFleet) -> None:
    """A model that is in the registry already ends with that token where it is the one that we
    would have made, and as a registry conflict that names the difference where it is not."""
    good = stranger_enters(service_node, "taken-good", service_node.manager)
    bad = stranger_enters(service_node, "taken-bad", STRANGER)
    fleet = fleet_of()
    fleet.start()
    sent = [message("taken-good"), message("taken-bad")]
    fleet.send(sent)
    evidence = await fleet.settled(sent)
    sagas: dict[str | None, Saga] = {saga.model_id: saga for saga in evidence.sagas.values()}
    adopted, refused = sagas["taken-good"], sagas["taken-bad"]
    assert adopted.state is State.ACKED
    assert adopted.deployment is not None
    assert (adopted.deployment.token, adopted.deployment.adopted) == (good, True)
    assert (refused.state, refused.error_class) == (State.DEAD_LETTERED, "registry_conflict")
    assert refused.error is not None
    assert bad in refused.error
    assert f"controller '{STRANGER}' instead of '{service_node.manager}'" in refused.error
    assert "next" not in fleet.lane()
    (event,) = evidence.events
    assert json.loads(event)["token_address"] == good
