"""Laws of signed bytes on a real node: it takes them for what they say."""

from collections.abc import Iterator

import pytest

from adapters.embedded import DEV_ACCOUNT, DEV_MNEMONIC_KEY, EmbeddedAnvil
from adapters.key_local import LocalKey
from adapters.signer import Signer
from saga.facts import Call
from saga.fees import GWEI, Fees
from saga.model import Attempt, AttemptKind
from tests.support.chain import STRANGER

CHAIN_ID = 31337
LEGACY = pytest.mark.parametrize("legacy", [False, True])


@pytest.fixture
def node() -> Iterator[EmbeddedAnvil]:
    """It keeps what it is sent until it is told to mine."""
    with EmbeddedAnvil("--no-mining") as anvil:
        yield anvil


def call_of(*, legacy: bool) -> Call:
    return Call(
        to=STRANGER,
        data="0xdeadbeef",
        gas=30_000,
        max_fee=10 * GWEI,
        max_priority_fee=10 * GWEI if legacy else GWEI,
        predicted=STRANGER,
        legacy=legacy,
    )


def send(node: EmbeddedAnvil, attempt: Attempt) -> None:
    assert node.request("eth_sendRawTransaction", attempt.raw) == attempt.hash


@LEGACY
async def test_taken(node: EmbeddedAnvil, *, legacy: bool) -> None:
    """The node finds the sender and every field in the bytes, and the hash that we computed."""
    attempt = await Signer(LocalKey(DEV_MNEMONIC_KEY)).sign(call_of(legacy=legacy), 0, CHAIN_ID)
    send(node, attempt)
    node.request("evm_mine")
    mined = node.request("eth_getTransactionByHash", attempt.hash)
    assert mined["from"] == DEV_ACCOUNT.lower()
    assert mined["to"] == STRANGER.lower()
    assert mined["input"] == "0xdeadbeef"
    names = ("type", "nonce", "gas", "value", "chainId")
    assert [int(mined[name], 16) for name in names] == [0 if legacy else 2, 0, 30_000, 0, CHAIN_ID]
    assert node.request("eth_getTransactionReceipt", attempt.hash)["status"] == "0x1"


@LEGACY
async def test_replaces(node: EmbeddedAnvil, *, legacy: bool) -> None:
    """Bytes signed again at a higher fee take the place of the first; one of them is mined."""
    signer = Signer(LocalKey(DEV_MNEMONIC_KEY))
    first = await signer.sign(call_of(legacy=legacy), 0, CHAIN_ID)
    bumped = await signer.resign(first.raw, Fees(max_fee=20 * GWEI, max_priority_fee=2 * GWEI))
    send(node, first)
    send(node, bumped)
    node.request("evm_mine")
    assert node.request("eth_getTransactionReceipt", first.hash) is None
    assert node.request("eth_getTransactionReceipt", bumped.hash)["status"] == "0x1"


@LEGACY
async def test_fills(node: EmbeddedAnvil, *, legacy: bool) -> None:
    """A self-send spends its nonce, so that what waits behind it is mined."""
    signer = Signer(LocalKey(DEV_MNEMONIC_KEY))
    behind = await signer.sign(call_of(legacy=legacy), 1, CHAIN_ID)
    fees = Fees(max_fee=10 * GWEI, max_priority_fee=10 * GWEI if legacy else GWEI, legacy=legacy)
    fill = await signer.self_send(0, CHAIN_ID, fees, AttemptKind.FILL)
    send(node, behind)
    send(node, fill)
    node.request("evm_mine")
    for attempt in (fill, behind):
        assert node.request("eth_getTransactionReceipt", attempt.hash)["status"] == "0x1"
