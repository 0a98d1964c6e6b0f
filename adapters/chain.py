"""One EVM chain through one signer: look up, simulate, sign, send, watch."""

import asyncio
import time
from typing import Any

from eth_utils.crypto import keccak

from adapters.chain_history import ChainHistory
from adapters.contracts import (
    GET_TOKEN,
    MODEL_OF,
    REGISTER_MODEL,
    ZERO_ADDRESS,
    revert_reason,
)
from adapters.rpc import Request, RpcClient, RpcError
from adapters.rpc_errors import SendVerdict, is_revert, send_verdict
from adapters.signer import Signer
from adapters.strategies import Create2Strategy, Strategy, call_request
from adapters.watcher import BlockWatcher
from saga.errors import ChainError, ChainUnavailableError, TamperedError
from saga.facts import (
    Absent,
    Call,
    Mined,
    Refused,
    RegistryConflict,
    Reverted,
    Sent,
    TimedOut,
    Unmined,
)
from saga.messages import ModelReadyToDeployMessage, token_name
from saga.model import Intent, Saga, Step
from saga.ports import Asked, Found, Watched

GAS_MARGIN = 1.3
GAS_CAP = 16_777_216
"""EIP-7825: no transaction may ask for more."""
TIP_SECONDS = 15.0
"""How long the node's tip suggestion is used."""


class EvmChain:
    """`saga.ports.Chain`. The watcher runs as a task of its own."""

    def __init__(
        self,
        rpc: RpcClient,
        watcher: BlockWatcher,
        history: ChainHistory,
        signer: Signer,
        strategy: Strategy,
        *,
        chain_id: int,
        registry: str,
    ) -> None:
        self._rpc = rpc
        self._watcher = watcher
        self._history = history
        self._signer = signer
        self._strategy = strategy
        self._chain_id = chain_id
        self._registry = registry
        self._tip = 0
        self._tip_until = 0.0

    @property
    def spent_nonces(self) -> int:
        return self._watcher.spent_nonces

    async def known_nonces(self) -> int:
        answer = await self._rpc.ask("eth_getTransactionCount", self._signer.address, "pending")
        return int(answer, 16)

    async def next_block(self) -> None:
        await self._watcher.next_block()

    async def look_up(self, saga: Saga, step: Step, message: ModelReadyToDeployMessage) -> Found:
        """Ask whether the step's work exists; if not, simulate the call that would do it.

        A simulation that reverts is believed only after a second look: a transaction sent before
        Redis was lost may have been mined between the two questions.
        """
        try:
            found = await self._look_up_once(saga, step, message)
            if isinstance(found, Refused):
                found = await self._look_up_once(saga, step, message)
        except ValueError as error:
            raise ChainError(f"a contract's answer cannot be read: {error}") from error
        return found

    async def _look_up_once(
        self, saga: Saga, step: Step, message: ModelReadyToDeployMessage
    ) -> Found:
        if step is Step.DEPLOY:
            return await self._look_up_token(message)
        assert saga.deployment is not None  # noqa: S101 - TOKEN_DEPLOYED has one
        return await self._look_up_entry(saga.deployment.token, message)

    async def _look_up_token(self, message: ModelReadyToDeployMessage) -> Found:
        registered, *answers = await self._ask(
            [
                call_request(self._registry, GET_TOKEN.encode(message.model_id)),
                *self._strategy.questions(message),
            ]
        )
        (entry,) = GET_TOKEN.decode(registered)
        existing, plan = self._strategy.read(message, answers)
        if existing is None and entry != ZERO_ADDRESS:
            existing = entry
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
        return await self._simulate(plan.to, plan.data, plan.predicted, plan.initcode_hash)

    async def _judge_linked(self, token: str, message: ModelReadyToDeployMessage) -> Found:
        """A contract made with the model's salt, at another address than ours would have.

        Anybody can take a salt. One with other content is a conflict as any; one with the same
        content has another owner, controller or code, and is never adopted.
        """
        found = await self._history.token(token, message.model_id)
        ours = (token_name(message.model_id), message.token_symbol, message.mlflow_run_id)
        if (found.name, found.symbol, found.mlflow_run_id) != ours:
            return found
        return RegistryConflict(
            f"contract {token} was made with this model's salt, but with another owner, controller "
            "or code than this service would give it; if it is yours, register it by hand"
        )

    async def _look_up_entry(self, token: str, message: ModelReadyToDeployMessage) -> Found:
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
        data = REGISTER_MODEL.encode(
            message.model_id, token, message.metric_name, message.mlflow_run_id
        )
        return await self._simulate(self._registry, data, token, "")

    async def _simulate(
        self, to: str, data: str, predicted: str, initcode_hash: str
    ) -> Absent | Refused:
        """The call with its gas and fees, or why the chain would revert it.

        Nodes simulate on top of their pool. A call that only the pool refuses is being done by a
        transaction that is out already: one sent before Redis was lost, or another replica's.
        """
        call = {"from": self._signer.address, "to": to, "data": data}
        estimate = await self._estimate(call)
        if isinstance(estimate, Refused):
            settled = await self._estimate(call, "latest")
            if isinstance(settled, Refused):
                return settled
            raise ChainUnavailableError(
                f"a pending transaction is doing this already; the pool says: {estimate.reason}"
            )
        tip = await self._priority_fee()
        base_fee = self._watcher.head.base_fee or 0
        return Absent(
            Call(
                to=to,
                data=data,
                gas=min(int(estimate * GAS_MARGIN), GAS_CAP),
                max_fee=2 * base_fee + tip,
                max_priority_fee=tip,
                predicted=predicted,
                initcode_hash=initcode_hash,
            )
        )

    async def _estimate(self, *params: Any) -> int | Refused:
        """Gas units, or the decoded reason of a revert."""
        try:
            return int(await self._rpc.call("eth_estimateGas", *params), 16)
        except RpcError as error:
            if send_verdict(error) is SendVerdict.HOLD:
                raise ChainUnavailableError(f"{self._signer.address}: {error.message}") from error
            if is_revert(error):
                reason = revert_reason(error.data) or error.message
                return Refused(f"the chain refuses the call: {reason}")
            raise ChainError(f"{self._rpc.host} eth_estimateGas: {error}") from error

    async def _priority_fee(self) -> int:
        """The node's suggestion in wei, asked for at most every TIP_SECONDS."""
        if time.monotonic() > self._tip_until:
            self._tip = int(await self._rpc.ask("eth_maxPriorityFeePerGas"), 16)
            self._tip_until = time.monotonic() + TIP_SECONDS
        return self._tip

    async def sign(self, step: Step, call: Call, nonce: int) -> Intent:
        """Sign `call` with `nonce`. Nothing is sent."""
        attempt = await self._signer.sign(call, nonce, self._chain_id)
        return Intent(
            step=step,
            sender=self._signer.address,
            chain_id=self._chain_id,
            nonce=nonce,
            to=call.to,
            predicted=call.predicted,
            initcode_hash=call.initcode_hash,
            attempts=(attempt,),
        )

    async def send(self, saga: Saga, step: Step) -> Sent | Refused:
        """Give the stored bytes to the node, after checking that they are what was stored.

        A lost reply and a contradiction count as sent: the hash is watched, nothing is signed.
        """
        intent = saga.intent(step)
        assert intent is not None  # noqa: S101 - sent only with an intent
        attempt = intent.attempts[-1]
        if _hash(attempt.raw) != attempt.hash:
            raise TamperedError(f"the stored bytes are not transaction {attempt.hash}")
        self._watcher.expect(intent, sent=True)
        try:
            await self._rpc.call("eth_sendRawTransaction", attempt.raw)
        except ChainUnavailableError:
            return Sent()
        except RpcError as error:
            match send_verdict(error):
                case SendVerdict.NEVER:
                    self._watcher.forget(intent)
                    return Refused(f"no node takes transaction {attempt.hash}: {error.message}")
                case SendVerdict.HOLD:
                    self._watcher.forget(intent)
                    raise ChainUnavailableError(f"{intent.sender}: {error.message}") from error
                case _:
                    return Sent()
        return Sent()

    async def ask(self, intent: Intent) -> Asked:
        """Ask for the receipts of the stored hashes, once."""
        answers = await self._watcher.receipts(intent.attempts)
        for raw in answers:
            if isinstance(raw, dict):
                fact = await self._watcher.judge(raw)
                return fact if isinstance(fact, Mined | Reverted) else Sent()
        for error in answers:
            if error is not None:
                raise ChainUnavailableError(f"{self._rpc.host} eth_getTransactionReceipt: {error}")
        return Unmined()

    async def watch(self, intent: Intent, seconds: float) -> Watched:
        """Wait until one of the stored hashes is confirmed, or the nonce is another's.

        Raises ChainUnavailableError when the time is up and no node has answered of late: that is
        not the transaction's fault.
        """
        settled = self._watcher.expect(intent, sent=False)
        try:
            return await asyncio.wait_for(asyncio.shield(settled), seconds)
        except TimeoutError:
            if self._watcher.silent_seconds > seconds / 2:
                raise ChainUnavailableError(
                    f"{self._rpc.host} has not answered for {self._watcher.silent_seconds:.0f} s"
                ) from None
            return TimedOut(seconds)
        finally:
            self._watcher.forget(intent)

    async def _ask(self, requests: list[Request]) -> list[Any]:
        """A batch of reads. Raises ChainError when one of them fails."""
        answers = await self._rpc.batch(requests)
        for (method, _), answer in zip(requests, answers, strict=True):
            if not isinstance(answer, str):
                raise ChainError(f"{self._rpc.host} {method}: {answer}")
        return answers


def _hash(raw: str) -> str | None:
    """The transaction hash of signed bytes, None when they are not even hex."""
    try:
        return "0x" + keccak(bytes.fromhex(raw.removeprefix("0x"))).hex()
    except ValueError:
        return None
