"""REGISTERED → PUBLISHED: push the event, in the same write as the move.

Fails to DEAD_LETTERED only when the stored message can no longer be read. Crash-safe: event and
state change together or not at all, and rebuilding the event gives the same bytes.
"""

from saga.actions import Action, Advance, Fail
from saga.costs import deployment_usd, deployment_wei
from saga.events import TokenDeployedMessage, encode, utc_timestamp
from saga.facts import Fact
from saga.messages import InvalidMessage, parse, token_name
from saga.model import ErrorClass, Saga
from saga.policy import Policy


def decide(saga: Saga, _fact: Fact | None, policy: Policy) -> Action:
    """Build the event from the stored message and results alone. SIDE EFFECTS: none."""
    try:
        return Advance(event=encode(event_of(saga, policy)))
    except InvalidMessage as error:
        return Fail(ErrorClass.INVALID, f"the stored message is no longer accepted: {error}")


def event_of(saga: Saga, policy: Policy) -> TokenDeployedMessage:
    """The `token_deployed` event of a registered saga. Raises InvalidMessage."""
    message = parse(saga.message, max_bytes=policy.max_message_bytes)
    deployment, registration = saga.deployment, saga.registration
    assert deployment is not None and registration is not None  # noqa: PT018, S101 - REGISTERED
    receipt, usd = deployment.receipt, deployment_usd(saga)
    return TokenDeployedMessage(
        model_id=message.model_id,
        token_address=deployment.token,
        token_symbol=message.token_symbol,
        token_name=token_name(message.model_id),
        transaction_hash=receipt.tx_hash,
        registry_transaction_hash=registration.receipt.tx_hash,
        mlflow_run_id=message.mlflow_run_id,
        model_name=message.model_name,
        model_version=message.model_version,
        deployment_timestamp=utc_timestamp(receipt.block_time),
        deployer_address=receipt.sender,
        network=policy.network,
        block_number=receipt.block_number,
        gas_used=str(receipt.gas_used),
        gas_price=str(receipt.gas_price),
        contributor_address=message.contributor_address,
        performance_metric=message.metric_name,
        performance_improvement=message.improvement_percentage,
        deployment_cost_wei=str(deployment_wei(saga)),
        deployment_cost_usd=None if usd is None else f"{usd:.6f}",
    )
