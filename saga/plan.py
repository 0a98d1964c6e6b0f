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


class Claims(Protocol):
    """Who owns a model, asked without claiming it."""

    async def claimed(self, saga: Saga, model_id: str, content: str) -> Saga: ...


async def plan(saga: Saga, table: Table, chain: Chain, claims: Claims, policy: Policy) -> Plan:
    """Decide as the engine would, ask as it would, and stop before the first effect."""
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
                    saga = msgspec.structs.replace(saga, state=table[saga.state].ok)
                case _:
                    return _plan(action)
        except (ChainError, ChainUnavailableError) as error:
            return Plan(f"would wait and ask the chain again: {error}", sends=False)
        except InvalidMessage as error:
            return Plan(f"would end again: the stored message is refused: {error}", sends=False)


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
