"""What would be done with a saga, found out without doing it: for dry runs."""

from typing import Protocol

import msgspec

from saga.actions import (
    Abandon,
    Action,
    Advance,
    Ask,
    ClaimModel,
    Fail,
    Intend,
    LookUp,
    Retry,
    Send,
    Skip,
    Watch,
)
from saga.errors import ChainError, ChainUnavailableError
from saga.facts import Fact
from saga.machine import Table
from saga.messages import InvalidMessage, parse
from saga.model import Saga, State, Step
from saga.policy import Policy
from saga.ports import Chain


class Plan(msgspec.Struct, frozen=True):
    """The next thing that would be done, and whether a transaction would go out."""

    what: str
    sends: bool
    complete: bool = False
    """Whether the chain holds all that the saga is to do there."""


class Claims(Protocol):
    """Who owns a model, asked without claiming it."""

    async def claimed(self, saga: Saga, model_id: str, content: str) -> Saga: ...


async def plan(saga: Saga, table: Table, chain: Chain, claims: Claims, policy: Policy) -> Plan:
    """Decide as the engine would, ask as it would, and stop before the first effect."""
    _, found = await _decided(saga, table, chain, claims, policy)
    return found if isinstance(found, Plan) else _plan(found)


async def outlook(saga: Saga, table: Table, chain: Chain, claims: Claims, policy: Policy) -> Plan:
    """As `plan`, but on past what the chain holds already, as far as nothing need be sent."""
    first: Plan | None = None
    while True:
        saga, found = await _decided(saga, table, chain, claims, policy)
        then = found if isinstance(found, Plan) else _plan(found)
        if not isinstance(found, Advance):
            break
        saga = msgspec.structs.replace(
            saga,
            state=table[saga.state].ok,
            deployment=found.deployment or saga.deployment,
            registration=found.registration or saga.registration,
        )
        if found.event is not None or found.ack:
            return Plan(_complete(saga, then), sends=False, complete=True)
        first = first or then
    return then if first is None else Plan(f"{first.what}; {then.what}", sends=then.sends)


def _complete(saga: Saga, then: Plan) -> str:
    token = "" if saga.deployment is None else f": token {saga.deployment.token}"
    entry = saga.registration
    block = "" if entry is None else f", registered in block {entry.receipt.block_number}"
    return f"complete on the chain{token}{block}; {then.what}"


async def _decided(
    saga: Saga, table: Table, chain: Chain, claims: Claims, policy: Policy
) -> tuple[Saga, Action | Plan]:
    """The first action with an effect, and the saga as it then is; or why there is none."""
    fact: Fact | None = None
    while True:
        action = table[saga.state].decide(saga, fact, policy)
        try:
            match action:
                case LookUp(step):
                    message = parse(saga.message, max_bytes=policy.max_message_bytes)
                    fact = await chain.look_up(saga, step, message)
                case Ask(step):
                    intent = saga.intent(step)
                    assert intent is not None  # noqa: S101 - asked only with an intent
                    fact = await chain.ask(intent)
                case ClaimModel(model_id, content):
                    saga = await claims.claimed(saga, model_id, content)
                case Abandon(step):
                    saga, fact = _without_intent(saga, step), None
                case Advance() if saga.state is State.RECEIVED:
                    state = table[saga.state].ok
                    saga = msgspec.structs.replace(saga, state=state, model_id=action.model_id)
                case _:
                    return saga, action
        except (ChainError, ChainUnavailableError) as error:
            return saga, Plan(f"would wait and ask the chain again: {error}", sends=False)
        except InvalidMessage as error:
            why = f"would end again: the stored message is refused: {error}"
            return saga, Plan(why, sends=False)


def _without_intent(saga: Saga, step: Step) -> Saga:
    """The saga once an intent whose nonce is spent has been abandoned: the chain is looked at."""
    if step is Step.DEPLOY:
        return msgspec.structs.replace(saga, deploy=None)
    return msgspec.structs.replace(saga, register=None)


def _plan(action: Action) -> Plan:
    match action:
        case Intend(step, call):
            return Plan(f"would sign and send: {step.value} token {call.predicted}", sends=True)
        case Send(step):
            return Plan(f"would send the stored {step.value} transaction again", sends=True)
        case Advance():
            return Plan(_advance(action), sends=False)
        case Skip(_, reason) | Fail(_, reason):
            return Plan(f"would end again: {reason}", sends=False)
        case Watch(step):
            return Plan(f"would watch the {step.value} transaction", sends=False)
        case Retry(reason):
            return Plan(f"would look again after: {reason}", sends=False)
        case _:
            return Plan("would ask again", sends=False)


def _advance(done: Advance) -> str:
    if done.deployment is not None:
        verb = "adopt" if done.deployment.adopted else "record"
        return (
            f"would {verb} token {done.deployment.token} "
            f"of block {done.deployment.receipt.block_number}, then register it if it is not"
        )
    if done.registration is not None:
        verb = "adopt" if done.registration.adopted else "record"
        return f"would {verb} the registry entry of block {done.registration.receipt.block_number}"
    if done.event is not None:
        return "would publish the event and acknowledge"
    return "would acknowledge the message"
