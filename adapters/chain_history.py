"""Finding again, in the chain's logs, what was done before this service knew of it."""

from typing import Any

from eth_utils.crypto import keccak

from adapters.contracts import (
    CONTROLLER,
    MLFLOW_RUN_ID,
    MODEL_ID,
    MODEL_LINKED,
    MODEL_REGISTERED,
    NAME,
    OWNER,
    SYMBOL,
    Function,
    topic_address,
    topic_of,
)
from adapters.rpc import Rpc, RpcError, failure, sane
from adapters.rpc_errors import is_range_limit, is_revert
from adapters.strategies import PROXY, call_request, create2_address
from adapters.watcher import BlockWatcher
from saga.adoption import Traits
from saga.errors import ChainError, ChainUnavailableError
from saga.facts import EntryExists, TokenExists
from saga.model import Deployment, Receipt, Registration


class ChainHistory:
    """Log queries from the block where the contracts begin."""

    def __init__(self, rpc: Rpc, watcher: BlockWatcher, *, from_block: int) -> None:
        self._rpc = rpc
        self._watcher = watcher
        self._from_block = from_block

    async def logs(self, query: dict[str, Any]) -> list[dict[str, Any]]:
        """All logs that match; the range is halved as often as the node asks for less."""
        end = int(await self._rpc.ask("eth_blockNumber"), 16)
        spans, found = [(min(self._from_block, end), end)], []
        while spans:
            first, last = spans.pop()
            span = {"fromBlock": hex(first), "toBlock": hex(last)}
            try:
                found += await self._rpc.call("eth_getLogs", {**query, **span})
            except RpcError as error:
                if first == last or not is_range_limit(error):
                    raise failure(f"{self._rpc.host} eth_getLogs", error) from error
                middle = (first + last) // 2
                spans += [(middle + 1, last), (first, middle)]
        return found

    @sane
    async def token(self, token: str, model_id: str) -> TokenExists:
        """What the chain knows of a token: its content, and the transaction that made it."""
        logs = await self.logs(
            {"address": token, "topics": [MODEL_LINKED.topic, topic_of(model_id)]}
        )
        if not logs:
            raise ChainError(f"token {token} has no ModelLinked log for this model yet")
        answers = await self._rpc.batch(
            [call_request(token, f.encode()) for f in (NAME, SYMBOL, MLFLOW_RUN_ID)]
        )
        for answer in answers:
            if isinstance(answer, RpcError):
                raise failure(f"token {token} does not answer", answer)
        return TokenExists(
            deployment=Deployment(token=token, receipt=await self._receipt(logs[0]), adopted=True),
            name=NAME.decode(answers[0])[0],
            symbol=SYMBOL.decode(answers[1])[0],
            mlflow_run_id=MLFLOW_RUN_ID.decode(answers[2])[0],
        )

    @sane
    async def traits(self, token: str) -> Traits:
        """What a contract of anybody's says of itself; what it does not say is None.

        Raises ChainError for an address without code: the registry takes none, so the node that
        answered is behind.
        """
        asked = (NAME, SYMBOL, MODEL_ID, MLFLOW_RUN_ID, CONTROLLER, OWNER)
        code, *answers = await self._rpc.batch(
            [
                ("eth_getCode", [token, "latest"]),
                *(call_request(token, function.encode()) for function in asked),
            ]
        )
        if isinstance(code, RpcError):
            raise failure(f"{self._rpc.host} eth_getCode", code)
        if len(code) <= len("0x"):
            raise ChainError(f"{self._rpc.host} does not see token {token} yet")
        name, symbol, model_id, run, controller, owner = (
            _said(token, function, answer) for function, answer in zip(asked, answers, strict=True)
        )
        return Traits(
            code_hash="0x" + keccak(bytes.fromhex(code[2:])).hex(),
            name=name,
            symbol=symbol,
            model_id=model_id,
            mlflow_run_id=run,
            controller=controller,
            owner=owner,
        )

    @sane
    async def entry(self, registry: str, token: str, model_id: str) -> EntryExists:
        """The transaction that entered our token in the registry."""
        logs = await self.logs(
            {
                "address": registry,
                "topics": [MODEL_REGISTERED.topic, topic_of(model_id), topic_address(token)],
            }
        )
        if not logs:
            raise ChainError(f"the registry has no ModelRegistered log for token {token} yet")
        return EntryExists(Registration(receipt=await self._receipt(logs[0]), adopted=True))

    @sane
    async def linked_token(self, model_id: str, salt: bytes) -> str | None:
        """A token of the model that CREATE2 made with the model's salt, whatever its content.

        Anybody can emit a ModelLinked log; only a contract at an address that follows from the
        salt counts, and that follows from the transaction that made it.
        """
        for log in await self.logs({"topics": [MODEL_LINKED.topic, topic_of(model_id)]}):
            made_by = await self._rpc.ask("eth_getTransactionByHash", log["transactionHash"])
            if made_by is None or (made_by["to"] or "").lower() != PROXY.lower():
                continue
            data = bytes.fromhex(made_by["input"][2:])
            token = create2_address(salt, keccak(data[32:]))
            if data[:32] == salt and token.lower() == log["address"].lower():
                return token
        return None

    async def _receipt(self, log: dict[str, Any]) -> Receipt:
        """The receipt behind a log. Raises ChainUnavailableError until it is deep enough."""
        raw = await self._rpc.ask("eth_getTransactionReceipt", log["transactionHash"])
        if raw is None:
            raise ChainUnavailableError(
                f"transaction {log['transactionHash']} waits for its confirmations"
            )
        return (await self._watcher.confirmed(raw)).receipt


def _said(token: str, function: Function, answer: Any) -> str | None:
    """A contract's one answer; None when it reverts or answers with something else.

    Raises ChainError when the node has not answered at all.
    """
    if isinstance(answer, RpcError):
        if is_revert(answer):
            return None
        raise failure(f"token {token} does not answer", answer)
    try:
        return str(function.decode(answer)[0])
    except ValueError:
        return None
