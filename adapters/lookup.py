"""What the chain holds of a model, and the calls that would make what it lacks."""

from collections.abc import Awaitable, Callable
from typing import Any

from adapters.chain_history import ChainHistory
from adapters.contracts import GET_TOKEN, MODEL_OF, REGISTER_MODEL, ZERO_ADDRESS
from adapters.gas import Estimate, GasBook, words
from adapters.rpc import Request, Rpc, RpcError, failure
from adapters.strategies import Create2Strategy, Plan, Strategy, call_request
from saga.adoption import differing
from saga.errors import ChainError, ChainUnavailableError
from saga.facts import Absent, Call, Refused, RegistryConflict
from saga.messages import ModelReadyToDeployMessage, token_name
from saga.model import Deployment, Saga, Step
from saga.ports import Found

Priced = Callable[[Call], Awaitable[Call]]


class Lookup:
    """Looks before anything is signed. `stand_in`: any contract that stands in no registry entry,
    to simulate a registration with before its token is there (the TokenManager)."""

    def __init__(
        self,
        rpc: Rpc,
        history: ChainHistory,
        gas: GasBook,
        strategy: Strategy,
        *,
        registry: str,
        stand_in: str,
        pipelined: bool,
    ) -> None:
        self._rpc = rpc
        self._history = history
        self._gas = gas
        self._strategy = strategy
        self._registry = registry
        self._stand_in = stand_in
        self._pipelined = pipelined

    async def look_up(
        self, saga: Saga, step: Step, message: ModelReadyToDeployMessage, priced: Priced
    ) -> Found:
        """Ask whether the step's work exists; if not, the call that would do it, simulated once
        for its kind.

        A simulation that reverts is believed only after a second look: a transaction sent before
        Redis was lost may have been mined between the two questions.
        """
        try:
            found = await self._once(saga, step, message, priced)
            if isinstance(found, Refused):
                found = await self._once(saga, step, message, priced)
        except ValueError as error:
            raise ChainError(f"a contract's answer cannot be read: {error}") from error
        return found

    async def _once(
        self, saga: Saga, step: Step, message: ModelReadyToDeployMessage, priced: Priced
    ) -> Found:
        if step is Step.DEPLOY:
            return await self._token(saga, message, priced)
        assert saga.deployment is not None  # noqa: S101 - TOKEN_DEPLOYED has one
        return await self._entry(saga.deployment, message, priced)

    async def _token(self, saga: Saga, message: ModelReadyToDeployMessage, priced: Priced) -> Found:
        registered, *answers = await self._ask(
            [
                call_request(self._registry, GET_TOKEN.encode(message.model_id)),
                *self._strategy.questions(message),
            ]
        )
        (entry,) = GET_TOKEN.decode(registered)
        existing, plan = self._strategy.read(message, answers)
        if existing is None and entry != ZERO_ADDRESS:
            return await self._judge_entered(entry, message)
        if existing is None and isinstance(self._strategy, Create2Strategy):
            salt = self._strategy.salt(message.model_id)
            linked = await self._history.linked_token(message.model_id, salt)
            if linked is not None and linked != plan.predicted:
                return await self._judge_linked(linked, message)
            existing = linked
        if existing is not None:
            if entry not in (ZERO_ADDRESS, existing):
                return RegistryConflict(
                    f"the registry holds token {entry} for this model, the chain has {existing}"
                )
            return await self._history.token(existing, message.model_id)
        return await self._absent_token(saga, message, plan, priced)

    async def _absent_token(
        self, saga: Saga, message: ModelReadyToDeployMessage, plan: Plan, priced: Priced
    ) -> Absent | Refused:
        """The deployment, and its registration to be sent right behind it where that is wanted."""
        kind = ("deploy", plan.to, words(*_strings(message)))
        deploying = await self._gas.of(kind, plan.to, plan.data)
        if isinstance(deploying, Refused):
            return deploying
        registering = await self._gas.of(
            self._register_kind(message), self._registry, _register(message, self._stand_in)
        )
        # A registration that would be refused is its own step's matter, once the token is there.
        ahead = registering if isinstance(registering, Estimate) else Estimate(0, 0)
        cost = deploying.gas + ahead.gas
        call = await priced(
            Call(
                to=plan.to,
                data=plan.data,
                gas=deploying.limit,
                max_fee=0,
                max_priority_fee=0,
                predicted=plan.predicted,
                initcode_hash=plan.initcode_hash,
                cost_gas=cost,
            )
        )
        if not self._pipelined or saga.register is not None or not ahead.gas:
            return Absent(call)
        return Absent(call, await priced(self._registration(message, plan.predicted, ahead, cost)))

    async def _judge_linked(self, token: str, message: ModelReadyToDeployMessage) -> Found:
        """A contract made with the model's salt, at another address than ours would have.

        Anybody can take a salt. One with other content is a conflict as any; one with the same
        content has another owner, controller or code, and is never adopted.
        """
        found = await self._history.token(token, message.model_id)
        ours = (token_name(message.model_id), message.token_symbol, message.mlflow_run_id)
        if (found.name, found.symbol, found.mlflow_run_id) != ours:
            return found
        differences = differing(
            await self._history.traits(token), self._strategy.traits(message)
        ) or ["those of its creation"]  # its owner may have changed the controller since
        return RegistryConflict(
            f"contract {token} was made with this model's salt, but with another owner, controller "
            f"or code than this service would give it: {', '.join(differences)}"
        )

    async def _judge_entered(self, token: str, message: ModelReadyToDeployMessage) -> Found:
        """A token that another hand has entered in the registry: it is adopted only when it is, in
        code, content and power, what this service would have made.

        One of our own is found before, by the manager or at its predicted address.
        """
        theirs = await self._history.traits(token)
        differences = differing(theirs, self._strategy.traits(message))
        if differences:
            return RegistryConflict(
                f"the registry holds token {token} for this model, which is not what this service "
                f"would have deployed: {', '.join(differences)}"
            )
        return await self._history.token(token, message.model_id)

    async def _entry(
        self, deployment: Deployment, message: ModelReadyToDeployMessage, priced: Priced
    ) -> Found:
        token = deployment.token
        registered, model = await self._ask(
            [
                call_request(self._registry, GET_TOKEN.encode(message.model_id)),
                call_request(self._registry, MODEL_OF.encode(token)),
            ]
        )
        (entry,) = GET_TOKEN.decode(registered)
        (owner,) = MODEL_OF.decode(model)
        if entry == token:
            return await self._history.entry(self._registry, token, message.model_id)
        if entry != ZERO_ADDRESS:
            return RegistryConflict(
                f"the registry holds token {entry} for this model, ours is {token}"
            )
        if owner:
            return RegistryConflict(f"the registry holds token {token} for model {owner!r}")
        found = await self._gas.of(
            self._register_kind(message), self._registry, _register(message, token)
        )
        if isinstance(found, Refused):
            if "TokenHasNoCode" in found.reason:
                raise ChainUnavailableError(f"{self._rpc.host} does not see token {token} yet")
            return found
        deployed = 0 if deployment.adopted else deployment.receipt.gas_used
        cost = deployed + found.gas
        return Absent(await priced(self._registration(message, token, found, cost)))

    def _registration(
        self, message: ModelReadyToDeployMessage, token: str, gas: Estimate, cost: int
    ) -> Call:
        return Call(
            to=self._registry,
            data=_register(message, token),
            gas=gas.limit,
            max_fee=0,
            max_priority_fee=0,
            predicted=token,
            cost_gas=cost,
        )

    @staticmethod
    def _register_kind(message: ModelReadyToDeployMessage) -> tuple[object, ...]:
        return (
            "register",
            words(message.model_id, message.metric_name, message.mlflow_run_id),
        )

    async def _ask(self, requests: list[Request]) -> list[Any]:
        """A batch of reads. Raises ChainError when one of them fails."""
        answers = await self._rpc.batch(requests)
        for (method, _), answer in zip(requests, answers, strict=True):
            if isinstance(answer, RpcError):
                raise failure(f"{self._rpc.host} {method}", answer)
            if not isinstance(answer, str):
                raise ChainError(f"{self._rpc.host} {method}: {answer}")
        return answers


def _strings(message: ModelReadyToDeployMessage) -> tuple[str, str, str, str]:
    return (
        message.model_id,
        token_name(message.model_id),
        message.token_symbol,
        message.mlflow_run_id,
    )


def _register(message: ModelReadyToDeployMessage, token: str) -> str:
    return REGISTER_MODEL.encode(
        message.model_id, token, message.metric_name, message.mlflow_run_id
    )
