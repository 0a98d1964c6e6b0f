"""An EVM node that holds our contracts, and the service's chain side on it."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Literal, NamedTuple

import msgspec
from eth_utils.address import to_checksum_address
from web3 import HTTPProvider
from web3.types import RPCEndpoint

from adapters.chain import EvmChain
from adapters.chain_history import ChainHistory
from adapters.chain_lane import ChainLane
from adapters.contracts import CONTROLLER_UPDATED, GET_TOKEN, NAME, SYMBOL, Function
from adapters.embedded import DEV_ACCOUNT, DEV_MNEMONIC_KEY
from adapters.fee_oracle import FeeOracle
from adapters.gas import GasBook
from adapters.key_local import LocalKey
from adapters.lookup import Lookup
from adapters.metrics import Metrics
from adapters.purse import Purse
from adapters.rpc_pool import RpcPool
from adapters.signer import Signer
from adapters.strategies import Create2Strategy, ManagerStrategy, Strategy
from adapters.watcher import AttemptsOf, BlockWatcher
from saga.cli.contracts import deploy
from saga.costs import Cost
from saga.facts import Absent, Mined
from saga.fees import Budget, Limits
from saga.messages import ModelReadyToDeployMessage, parse
from saga.model import Attempt, Deployment, Intent, Lease, Saga, State, Step
from saga.ports import Watched
from tests.support.fleet import message

StrategyName = Literal["manager", "create2"]
STRATEGIES: tuple[StrategyName, ...] = ("manager", "create2")

# The second account of anvil's documented mnemonic: funded, without any role.
STRANGER_KEY = "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"
STRANGER = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"

CONTROLLER = Function("controller()", "address")
WATCH_SECONDS = 20.0
POLL_SECONDS = 0.02
LIMITS = Limits(max_fee=10**15)
"""A million gwei: what anvil asks for is never above it."""


class Node:
    """A node on which registry and manager are deployed once, by the development key."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._provider = HTTPProvider(url)
        self.contracts = deploy(url, DEV_MNEMONIC_KEY)
        """Setting name → address."""
        self.registry = self.contracts["MODEL_REGISTRY_ADDRESS"]
        self.manager = self.contracts["TOKEN_MANAGER_ADDRESS"]
        self.chain_id = int(self.request("eth_chainId"), 16)

    def request(self, method: str, *params: Any) -> Any:
        """Any JSON-RPC method. Raises AssertionError with the node's error."""
        reply = self._provider.make_request(RPCEndpoint(method), list(params))
        assert "error" not in reply, reply["error"]
        return reply["result"]

    def read(self, contract: str, function: Function, *args: Any) -> Any:
        """The one value that a view returns."""
        call = {"to": contract, "data": function.encode(*args)}
        return function.decode(self.request("eth_call", call, "latest"))[0]

    def transact(self, sender: str, to: str | None, data: str = "0x") -> dict[str, Any]:
        """A mined transaction of one of the node's own accounts: its receipt.

        anvil answers before it has mined, so the block asked for here may be a second one.
        """
        target = {} if to is None else {"to": to}
        sent = self.request("eth_sendTransaction", {"from": sender, "data": data, **target})
        self.mine()
        receipt: dict[str, Any] = self.request("eth_getTransactionReceipt", sent)
        assert receipt["status"] == "0x1"
        return receipt

    def hold_blocks(self) -> None:
        """No block from now on but by `mine`."""
        self.request("evm_setAutomine", False)

    def mine(self, blocks: int = 1) -> None:
        for _ in range(blocks):
            self.request("evm_mine")

    def nonce(self, account: str = DEV_ACCOUNT, block: str = "latest") -> int:
        return int(self.request("eth_getTransactionCount", account, block), 16)

    @property
    def block_number(self) -> int:
        return int(self.request("eth_blockNumber"), 16)

    def cost(self, tx_hash: str) -> Cost:
        """What a mined transaction took, as the node says."""
        receipt = self.request("eth_getTransactionReceipt", tx_hash)
        gas, price = int(receipt["gasUsed"], 16), int(receipt["effectiveGasPrice"], 16)
        return Cost(gas, gas * price)

    def tokens(self) -> set[str]:
        """All contracts that ever said who controls them: every HokusaiToken."""
        query = {"fromBlock": "0x0", "toBlock": "latest", "topics": [CONTROLLER_UPDATED.topic]}
        return {to_checksum_address(log["address"]) for log in self.request("eth_getLogs", query)}

    def name(self, token: str) -> str:
        return str(self.read(token, NAME))

    def symbol(self, token: str) -> str:
        return str(self.read(token, SYMBOL))

    def controller(self, token: str) -> str:
        return str(self.read(token, CONTROLLER))

    def registered(self, model_id: str) -> str:
        """The registry's token of a model; the zero address without one."""
        return str(self.read(self.registry, GET_TOKEN, model_id))

    @contextmanager
    def rolled_back(self) -> Iterator[None]:
        """Undo what the block does to chain, pool and mining."""
        snapshot = self.request("evm_snapshot")
        try:
            yield
        finally:
            self.request("anvil_dropAllTransactions")
            self.request("evm_setAutomine", True)
            assert self.request("evm_revert", snapshot) is True


class ChainSide(NamedTuple):
    """What one replica has of the chain."""

    chain: EvmChain
    watcher: BlockWatcher
    history: ChainHistory
    signer: Signer
    strategy: Strategy
    rpc: RpcPool
    lane: ChainLane
    purse: Purse

    async def intend(self, saga: Saga, step: Step) -> Saga:
        """Look up, find nothing, sign with the account's next nonce: the saga with its intent."""
        found = await self.chain.look_up(saga, step, content_of(saga))
        assert isinstance(found, Absent), found
        intent = await self.lane.sign(step, found.call, await self.lane.known_nonces())
        return with_intent(saga, intent)

    async def broadcast(self, saga: Saga, step: Step) -> Saga:
        """`intend`, and send once."""
        saga = await self.intend(saga, step)
        await self.chain.send(saga, step)
        return saga

    async def pair(self, saga: Saga) -> Saga:
        """Look up and sign a deployment with its registration behind it: the saga with both."""
        found = await self.chain.look_up(saga, Step.DEPLOY, content_of(saga))
        assert isinstance(found, Absent), found
        assert found.follow is not None
        nonce = await self.lane.known_nonces()
        saga = with_intent(saga, await self.lane.sign(Step.DEPLOY, found.call, nonce))
        return with_intent(saga, await self.lane.sign(Step.REGISTER, found.follow, nonce + 1))

    async def settle(self, saga: Saga, step: Step) -> Watched:
        """Watch the step's intent until something is known of it."""
        intent = saga.intent(step)
        assert intent is not None
        return await self.chain.watch(intent, WATCH_SECONDS)

    async def carry_out(self, saga: Saga, step: Step) -> Saga:
        """A whole step: the saga with its result."""
        saga = await self.broadcast(saga, step)
        fact = await self.settle(saga, step)
        assert isinstance(fact, Mined), fact
        if step is Step.REGISTER:
            return saga
        assert saga.deploy is not None
        deployment = Deployment(token=saga.deploy.predicted, receipt=fact.receipt)
        return msgspec.structs.replace(saga, state=State.TOKEN_DEPLOYED, deployment=deployment)


async def stored_attempts(intent: Intent) -> Sequence[Attempt]:
    """As a store where no keeper has added any."""
    return intent.attempts


@asynccontextmanager
async def chain_side(
    node: Node,
    strategy: StrategyName = "manager",
    *,
    url: str | Sequence[str] | None = None,
    key: str = DEV_MNEMONIC_KEY,
    confirmations: int | None = 1,
    watching: bool = True,
    limits: Limits = LIMITS,
    attempts_of: AttemptsOf = stored_attempts,
    adopt_pending: bool = True,
) -> AsyncIterator[ChainSide]:
    """The chain side on `node`, reached at `url` (a proxy's, or several).

    Without `watching` nothing polls by itself: call `watcher.poll()`, and `node.hold_blocks()`
    before, so that each poll sees what the test wants it to see.
    """
    signer = Signer(LocalKey(key))
    rpc = RpcPool([url] if isinstance(url, str) else list(url or [node.url]))
    watcher = BlockWatcher(
        rpc,
        [signer.address],
        confirmations=confirmations,
        poll_seconds=POLL_SECONDS,
        attempts_of=attempts_of,
    )
    history = ChainHistory(rpc, watcher, from_block=0)
    plan = strategy_of(node, strategy)
    gas = GasBook(rpc, lambda: signer.address)
    lookup = Lookup(
        rpc,
        history,
        gas,
        plan,
        registry=node.registry,
        stand_in=node.manager,
        pipelined=True,
    )
    oracle = FeeOracle(rpc, percentile=50.0, tip_floor=1)
    purse = Purse(
        rpc,
        [signer.address],
        Metrics(),
        least=0,
        poll_seconds=POLL_SECONDS,
        busy=lambda: True,
    )
    lane = ChainLane(
        rpc, watcher, signer, purse, chain_id=node.chain_id, adopt_pending=adopt_pending
    )
    chain = EvmChain(rpc, watcher, lookup, gas, oracle, Budget(limits), [lane])
    await watcher.poll()
    task = asyncio.create_task(watcher.run()) if watching else None
    try:
        yield ChainSide(chain, watcher, history, signer, plan, rpc, lane, purse)
    finally:
        if task is not None:
            task.cancel()
            (ended,) = await asyncio.gather(task, return_exceptions=True)
            assert isinstance(ended, asyncio.CancelledError), ended
        await rpc.close()


def strategy_of(node: Node, name: StrategyName) -> Strategy:
    if name == "manager":
        return ManagerStrategy(node.manager)
    return Create2Strategy(
        registry=node.registry, manager=node.manager, owner=node.manager, chain_id=node.chain_id
    )


def new_saga(model_id: str, **changes: Any) -> Saga:
    """A validated saga of a message for `model_id`; `changes` are those of the payload."""
    return Saga(
        id=f"saga-of-{model_id}",
        state=State.VALIDATED,
        version=1,
        lease=Lease(owner="test", fence=1),
        message=message(model_id, **changes),
        created_ms=0,
        updated_ms=0,
        model_id=model_id,
    )


def content_of(saga: Saga) -> ModelReadyToDeployMessage:
    return parse(saga.message)


def with_intent(saga: Saga, intent: Intent) -> Saga:
    if intent.step is Step.DEPLOY:
        return msgspec.structs.replace(saga, deploy=intent)
    return msgspec.structs.replace(saga, register=intent)
