"""A running service that fails tells of it: in the failure list, and to the webhook."""

import json
from collections.abc import Callable
from typing import cast

from jsonschema import Draft202012Validator

from adapters.alerts import signature
from adapters.embedded import DEV_MNEMONIC_KEY
from saga.messages import identify
from saga.model import State
from saga.schemas import FAILURE, schemas
from tests.integration.test_service import keys_of, set_registrar
from tests.support.chain import Node
from tests.support.fleet import Fleet, message
from tests.support.webhook import PATH_KEY, says, webhook

MakeFleet = Callable[..., Fleet]
SECRET = "correct-horse-battery-staple"


def failures(fleet: Fleet) -> list[bytes]:
    with fleet.redis as client:
        return cast("list[bytes]", client.lrange(keys_of(fleet).failures, 0, -1))


async def test_a_dead_letter_is_told_once(service_node: Node, fleet_of: MakeFleet) -> None:
    """A message that is dead-lettered gives one failure event and, of two replicas and a webhook
    that fails at first, one alert. No secret is in either."""
    raw = message("told", mlflow_run_id="run-only-the-message-knows")
    saga_id = identify(raw).saga_id
    async with webhook() as hook:
        hook.answers = [says(500), says(200)]
        fleet = fleet_of(ALERT_WEBHOOK_URL=hook.url, ALERT_WEBHOOK_SECRET=SECRET)
        fleet.start_measured()
        await fleet.until_started()  # a free port is free until somebody takes it
        fleet.start_measured()
        await fleet.until_started()
        set_registrar(service_node, granted=False)
        fleet.send([raw])
        evidence = await fleet.settled([raw])
        saga = evidence.sagas[saga_id]
        assert saga.state is State.DEAD_LETTERED
        assert saga.deployment is not None
        await fleet.until_metric("saga_alerts_total", 1, kind="dead_letter", outcome="sent")
        set_registrar(service_node, granted=True)
        (told,) = failures(fleet)
        event = json.loads(told)
        Draft202012Validator(schemas()[FAILURE]).validate(event)
        assert (event["saga_id"], event["failed_in"]) == (saga_id, "TOKEN_DEPLOYED")
        assert event["failed_at"] == saga.failed_at
        assert saga.deployment.receipt.tx_hash in event["transaction_hashes"]
        assert event["network"] == "localhost"
        (first, again) = hook.requests
        assert first[1] == again[1]
        for headers, body in hook.requests:
            expected = signature(SECRET.encode(), headers["X-Timestamp"], body)
            assert headers["X-Signature-256"] == expected
        alert = json.loads(again[1])
        assert (alert["event"], alert["saga_id"]) == ("dead_letter", saga_id)
        assert event["error"] in alert["reason"]
        written = told + again[1] + "".join(map(fleet.log, fleet.alive)).encode()
        for secret in (DEV_MNEMONIC_KEY.removeprefix("0x"), SECRET, PATH_KEY):
            assert secret.encode() not in written
        assert b"run-only-the-message-knows" not in told + again[1]
        assert fleet.stop() == [0, 0]
