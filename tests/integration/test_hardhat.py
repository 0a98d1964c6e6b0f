"""Laws of a pool that enforces its rules: what Hardhat refuses, and what it says, is understood."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest

from adapters.embedded import DEV_ACCOUNT, DEV_MNEMONIC_KEY, EmbeddedHardhat, EmbeddedPartError
from adapters.fee_oracle import FeeOracle
from adapters.key_local import LocalKey
from adapters.rpc import RpcClient, RpcError
from adapters.rpc_errors import SendVerdict, send_verdict
from adapters.signer import Signer
from adapters.strategies import PROXY
from saga.cli.contracts import deploy
from saga.facts import Call
from saga.fees import GWEI, Fees, Limits, Market, bump, offer
from saga.model import Attempt
from tests.support.chain import STRANGER

CHAIN_ID = 31337
PENNILESS_KEY = "0x" + "77" * 32
LIMITS = Limits(max_fee=100 * GWEI)
QUIET = Market(base_fee=0, tip=0)
LEGACY = pytest.mark.parametrize("legacy", [False, True])
CALL = Call(
    to=STRANGER,
    data="0x",
    gas=21_000,
    max_fee=30 * GWEI,
    max_priority_fee=GWEI,
    predicted=STRANGER,
)
LEGACY_CALL = msgspec.structs.replace(CALL, max_priority_fee=30 * GWEI, legacy=True)


class Account:
    """The development account on one node: it signs with the next nonce and sends."""

    def __init__(self, node: EmbeddedHardhat, rpc: RpcClient) -> None:
        self.node = node
        self.signer = Signer(LocalKey(DEV_MNEMONIC_KEY))
        self._rpc = rpc

    def nonce(self) -> int:
        count = self.node.request("eth_getTransactionCount", DEV_ACCOUNT, "latest")
        return int(count, 16)

    async def sign(self, call: Call = CALL, *, ahead: int = 0, **changes: Any) -> Attempt:
        changed = msgspec.structs.replace(call, **changes)
        return await self.signer.sign(changed, self.nonce() + ahead, CHAIN_ID)

    async def send(self, attempt: Attempt) -> None:
        """Raises RpcError."""
        assert await self._rpc.call("eth_sendRawTransaction", attempt.raw) == attempt.hash

    async def refused(self, attempt: Attempt) -> RpcError:
        """The error that the node answers with."""
        with pytest.raises(RpcError) as caught:
            await self.send(attempt)
        return caught.value

    def receipt(self, attempt: Attempt) -> Any:
        return self.node.request("eth_getTransactionReceipt", attempt.hash)

    @contextmanager
    def queueing(self) -> Iterator[None]:
        """Nothing is mined meanwhile but by `evm_mine`; what waits at the end is."""
        self.node.request("evm_setAutomine", False)
        try:
            yield
        finally:
            self.node.request("evm_mine")
            self.node.request("evm_setAutomine", True)


@pytest.fixture
async def account(hardhat: EmbeddedHardhat) -> AsyncIterator[Account]:
    rpc = RpcClient(hardhat.url)
    yield Account(hardhat, rpc)
    await rpc.close()


def fees_of(attempt: Attempt, *, legacy: bool) -> Fees:
    return Fees(max_fee=attempt.max_fee, max_priority_fee=attempt.max_priority_fee, legacy=legacy)


def percent_more(fees: Fees, fee: int, tip: int) -> Fees:
    return Fees(
        max_fee=fees.max_fee * (100 + fee) // 100,
        max_priority_fee=fees.max_priority_fee * (100 + tip) // 100,
        legacy=fees.legacy,
    )


@pytest.mark.parametrize(
    ("legacy", "fee", "tip"),
    [
        (False, 0, 9),
        (False, 5, 5),
        (False, 9, 9),
        (False, 10, 9),
        (False, 9, 10),
        (False, 50, 0),
        (True, 5, 5),
        (True, 9, 9),
    ],
)
async def test_small_step(account: Account, *, legacy: bool, fee: int, tip: int) -> None:
    """Less than ten percent on either field replaces nothing: the first bytes stay in the pool."""
    with account.queueing():
        first = await account.sign(LEGACY_CALL if legacy else CALL)
        await account.send(first)
        fees = percent_more(fees_of(first, legacy=legacy), fee, tip)
        second = await account.signer.resign(first.raw, fees)
        error = await account.refused(second)
    assert error.message.startswith("Replacement transaction underpriced.")
    assert send_verdict(error) is SendVerdict.ASK
    assert account.receipt(first)["status"] == "0x1"
    assert account.receipt(second) is None


@LEGACY
@pytest.mark.parametrize("tip", [1, 7, GWEI, GWEI + 1])
async def test_bump(account: Account, tip: int, *, legacy: bool) -> None:
    """Each of our bumps is taken, also of odd and tiny amounts, and the last one is mined."""
    with account.queueing():
        price = 2 * GWEI + tip
        call = LEGACY_CALL if legacy else CALL
        attempts = [
            await account.sign(call, max_fee=price, max_priority_fee=price if legacy else tip)
        ]
        await account.send(attempts[0])
        for _ in range(6):
            fees = bump(fees_of(attempts[-1], legacy=legacy), QUIET, LIMITS, 0)
            assert isinstance(fees, Fees)
            attempts.append(await account.signer.resign(attempts[-1].raw, fees))
            await account.send(attempts[-1])
    mined = [account.receipt(attempt) for attempt in attempts]
    assert mined[:-1] == [None] * 6
    assert mined[-1]["status"] == "0x1"


async def test_offer(account: Account) -> None:
    """What the oracle and `offer` make of the node's own numbers is mined at once."""
    rpc = RpcClient(account.node.url)
    try:
        market = await FeeOracle(rpc, percentile=50, tip_floor=1_000_000).market()
    finally:
        await rpc.close()
    fees = offer(market, LIMITS, 0)
    assert isinstance(fees, Fees)
    attempt = await account.sign(max_fee=fees.max_fee, max_priority_fee=fees.max_priority_fee)
    await account.send(attempt)
    assert account.receipt(attempt)["status"] == "0x1"


async def test_nonce_too_low(account: Account) -> None:
    """Of a spent nonce the chain is asked: the bytes that spent it may be ours."""
    await account.send(await account.sign())
    error = await account.refused(await account.sign(ahead=-1))
    assert "nonce too low" in error.message.lower()
    assert send_verdict(error) is SendVerdict.ASK


async def test_nonce_too_high(account: Account) -> None:
    """A gap passes when what is missing arrives."""
    error = await account.refused(await account.sign(ahead=5))
    assert "nonce too high" in error.message.lower()
    assert send_verdict(error) is SendVerdict.WAIT


@LEGACY
async def test_below_base_fee(account: Account, *, legacy: bool) -> None:
    """What the next block cannot take needs more at the same nonce."""
    call = LEGACY_CALL if legacy else CALL
    error = await account.refused(await account.sign(call, max_fee=1, max_priority_fee=1))
    assert "is too low for the next block" in error.message
    assert send_verdict(error) is SendVerdict.BUMP


async def test_known(account: Account) -> None:
    """Bytes that wait already are known."""
    with account.queueing():
        attempt = await account.sign()
        await account.send(attempt)
        error = await account.refused(attempt)
    assert send_verdict(error) is SendVerdict.KNOWN
    assert account.receipt(attempt)["status"] == "0x1"


async def test_no_funds(account: Account) -> None:
    """Nobody but an operator can fill an empty account."""
    attempt = await Signer(LocalKey(PENNILESS_KEY)).sign(CALL, 0, CHAIN_ID)
    error = await account.refused(attempt)
    assert "doesn't have enough funds" in error.message
    assert send_verdict(error) is SendVerdict.HOLD


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"gas": 20_000}, "requires at least 21000 gas"),
        ({"gas": 16_777_217}, "exceeds transaction gas cap"),
        ({"max_fee": GWEI, "max_priority_fee": 2 * GWEI}, "is bigger than maxFeePerGas"),
    ],
)
async def test_never(account: Account, changes: dict[str, Any], text: str) -> None:
    """What no node takes is refused for good."""
    error = await account.refused(await account.sign(**changes))
    assert text in error.message
    assert send_verdict(error) is SendVerdict.NEVER


async def test_other_chain(account: Account) -> None:
    """Neither does any node of this chain take another's."""
    error = await account.refused(await account.signer.sign(CALL, account.nonce(), 5))
    assert "invalid chainId" in error.message
    assert send_verdict(error) is SendVerdict.NEVER


def reverting_with(reason: str) -> str:
    """Creation code that reverts with Error(reason)."""
    text = reason.encode()
    words = (32).to_bytes(32) + len(text).to_bytes(32) + text.ljust(-(-len(text) // 32) * 32, b"\0")
    data = bytes.fromhex("08c379a0") + words
    # PUSH size, PUSH 12, PUSH 0, CODECOPY, PUSH size, PUSH 0, REVERT; the data follows
    code = bytes([0x60, len(data), 0x60, 12, 0x60, 0, 0x39, 0x60, len(data), 0x60, 0, 0xFD])
    return "0x" + (code + data).hex()


@pytest.mark.parametrize(
    "initcode",
    ["0x60006000fd", reverting_with("nonce too high"), reverting_with("insufficient funds")],
)
async def test_reverted_although_mined(account: Account, initcode: str) -> None:
    """An answer that reads like a refusal, while the transaction is in a block: ask the chain."""
    attempt = await account.sign(to="0x", data=initcode, gas=100_000)
    error = await account.refused(attempt)
    assert error.code == -32603
    assert "reverted" in error.message
    assert send_verdict(error) is SendVerdict.ASK
    assert account.receipt(attempt)["status"] == "0x0"


def test_contracts() -> None:
    """`saga contracts deploy` works there, the keyless CREATE2 proxy included; twice too."""
    with EmbeddedHardhat() as node:
        assert node.request("eth_getCode", PROXY, "latest") == "0x"
        first = deploy(node.url, DEV_MNEMONIC_KEY)
        assert len(node.request("eth_getCode", PROXY, "latest")) > 2
        second = deploy(node.url, DEV_MNEMONIC_KEY)
        for address in (*first.values(), *second.values()):
            assert len(node.request("eth_getCode", address, "latest")) > 2
    assert not set(first.values()) & set(second.values())


def test_accounts(hardhat: EmbeddedHardhat) -> None:
    """Its accounts are anvil's, its chain id is anvil's, and a strange method is an error."""
    assert hardhat.request("eth_accounts")[:2] == [DEV_ACCOUNT.lower(), STRANGER.lower()]
    assert int(hardhat.request("eth_chainId"), 16) == CHAIN_ID
    with pytest.raises(EmbeddedPartError, match="eth_nothing is not supported"):
        hardhat.request("eth_nothing")


def test_blocks_by_time() -> None:
    """With `block_seconds` nothing is mined at once; a restart keeps the port."""
    with EmbeddedHardhat(block_seconds=3600) as node:
        sent = {"from": DEV_ACCOUNT, "to": STRANGER}
        attempt = node.request("eth_sendTransaction", sent)
        assert node.request("eth_getTransactionReceipt", attempt) is None
        node.request("evm_mine")
        assert node.request("eth_getTransactionReceipt", attempt)["status"] == "0x1"
        url = node.url
        node.kill()
        node.start()
        assert node.url == url
        assert node.request("eth_blockNumber") == "0x0"
