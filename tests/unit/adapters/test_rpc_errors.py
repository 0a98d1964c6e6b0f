"""Laws of node errors: what each client's text means for signed bytes, and for a question."""

from collections.abc import Callable

import pytest

from adapters.rpc import RpcError
from adapters.rpc_errors import (
    SendVerdict,
    is_missing_method,
    is_range_limit,
    is_rate_limit,
    is_revert,
    is_sick,
    send_verdict,
)

KNOWN, ASK, BUMP = SendVerdict.KNOWN, SendVerdict.ASK, SendVerdict.BUMP
WAIT, HOLD, NEVER = SendVerdict.WAIT, SendVerdict.HOLD, SendVerdict.NEVER

# As the clients write them: geth, erigon, bor, Besu, Nethermind, anvil, Hardhat.
TEXTS = {
    KNOWN: [
        "already known",
        "known transaction",
        "Known transaction: 0x0d24b9eaa788dea23d754ec526b6b6f0d1a36b6d830ccc4f16284e66513f2816",
        "AlreadyKnown",
        "transaction already imported",
        "existing txn with same hash",
        "Transaction with the same hash was already imported",
    ],
    ASK: [
        "unknown transaction",
        "nonce too low",
        "Nonce too low. Expected nonce to be 5 but got 4.",
        "Transaction nonce too low. Expected nonce to be at least 3 but got 2.",
        "OldNonce",
        "replacement transaction underpriced",
        "Replacement transaction underpriced. A gasPrice/maxFeePerGas of at least 2 is necessary",
        "could not replace existing tx",
        "Error: Transaction reverted without a reason string",
        "Error: VM Exception while processing transaction: reverted with reason string 'x'",
        "timeout",
        "internal error",
        "execution reverted",
        "the method is not available",
        "",
    ],
    BUMP: [
        "transaction underpriced",
        "transaction gas price below minimum",
        "max fee per gas less than block base fee",
        "gas price below configured minimum gas price",
        "gas price below current base fee",
        "underpriced",
        "fee too low",
        "FeeTooLow",
        "Transaction maxFeePerGas (1) is too low for the next block, baseFeePerGas is 2",
        "Transaction gasPrice (1) is too low for the next block, which has a baseFeePerGas of 2",
    ],
    WAIT: [
        "txpool is full",
        "sub-pool is full",
        "nonce too high",
        "Nonce too high. Expected nonce to be 2 but got 9.",
        "NonceGap",
        "nonce too far in future",
        "Transaction nonce is too distant from current sender nonce",
        "future transaction tries to replace pending",
        "account limit exceeded",
        "address already reserved",
        "in-flight transaction limit reached for delegated accounts",
        "node is syncing",
        "transaction indexing is in progress",
    ],
    HOLD: [
        "insufficient funds for gas * price + value",
        "Insufficient funds for gas * price + value",
        "Upfront cost exceeds account balance",
        "Sender doesn't have enough funds to send tx",
        "tx fee (2.00 ether) exceeds the configured cap (1.00 ether)",
        "Transaction fee cap exceeded",
    ],
    NEVER: [
        "intrinsic gas too low",
        "intrinsic gas exceeds gas limit",
        "IntrinsicGas",
        "intrinsic gas too high",
        "Transaction requires at least 53000 gas but got 21000",
        "exceeds block gas limit",
        "gas limit reached",
        "transaction gas limit too high",
        "Transaction gas limit is 20000000 and exceeds transaction gas cap of 16777216",
        "insufficient gas for floor data gas cost",
        "max initcode size exceeded",
        "initcode too large",
        "oversized data",
        "invalid sender",
        "invalid chain id for signer",
        "Trying to send a raw transaction with an invalid chainId",
        "max priority fee per gas higher than max fee per gas",
        "maxPriorityFeePerGas (2) is bigger than maxFeePerGas (1)",
        "only replay-protected (EIP-155) transactions allowed over RPC",
    ],
}
EACH = [(text, verdict) for verdict, texts in TEXTS.items() for text in texts]


@pytest.mark.parametrize(("text", "verdict"), EACH)
@pytest.mark.parametrize("code", [-32000, -32003, -32603, -32005, 3])
def test_verdict(text: str, verdict: SendVerdict, code: int) -> None:
    """The text decides, never the code: clients use the same codes for different things."""
    assert send_verdict(RpcError(code, text)) is verdict


@pytest.mark.parametrize(("text", "verdict"), EACH)
@pytest.mark.parametrize("form", ["{}: next 5, tx 4", "INTERNAL_ERROR: {}", "err: {} (supplied 1)"])
def test_verdict_with_details(text: str, verdict: SendVerdict, form: str) -> None:
    """Details before or after the text change nothing: geth appends them, others wrap it."""
    assert send_verdict(RpcError(-32000, form.format(text))) is verdict


@pytest.mark.parametrize(("text", "verdict"), EACH)
@pytest.mark.parametrize("change", [str.upper, str.lower, str.title])
def test_case(text: str, verdict: SendVerdict, change: Callable[[str], str]) -> None:
    """Nor does the case of letters."""
    assert send_verdict(RpcError(0, change(text))) is verdict


# As the nodes append them.
DETAILED = [
    ("nonce too low: next nonce 5, tx nonce 4", ASK),
    ("nonce too low: address 0xf39F, tx: 4 state: 5", ASK),
    ("intrinsic gas too low: gas 20000, minimum needed 21000", NEVER),
    ("insufficient funds for gas * price + value: balance 0, tx cost 630000000000000", HOLD),
    ("transaction underpriced: gas tip cap 1, minimum needed 1000000", BUMP),
    ("transaction gas price below minimum: gas tip cap 1, minimum needed 25000000000", BUMP),
    ("max fee per gas less than block base fee: address 0xf39F, maxFeePerGas: 1, baseFee: 7", BUMP),
    ("replacement transaction underpriced: new tx gas fee cap 1 <= 2 queued", ASK),
    ("INTERNAL_ERROR: could not replace existing tx", ASK),
    ("FeeTooLow, MaxFeePerGas too low. MaxFeePerGas: 1, BaseFee: 7", BUMP),
    ("Gas price below current base fee (supplied 1)", BUMP),
    ("tx fee (2.00 ether) exceeds the configured cap (1.00 ether)", HOLD),
]


@pytest.mark.parametrize(("text", "verdict"), DETAILED)
def test_verdict_as_nodes_write(text: str, verdict: SendVerdict) -> None:
    """Whole texts of nodes mean what their first words mean."""
    assert send_verdict(RpcError(-32000, text)) is verdict


def test_specific_text_goes_first() -> None:
    """A refused replacement is no low price: another transaction with the nonce is in the pool."""
    replacement = "replacement transaction underpriced: new tx gas fee cap 1 <= 2 queued"
    assert send_verdict(RpcError(-32000, replacement)) is ASK
    assert send_verdict(RpcError(-32000, "transaction underpriced: tip 1 < 2")) is BUMP


@pytest.mark.parametrize("reason", [text for text, _ in EACH])
@pytest.mark.parametrize(
    "form",
    [
        "Error: VM Exception while processing transaction: reverted with reason string '{}'",
        "execution reverted: {}",
    ],
)
def test_contract_cannot_choose(reason: str, form: str) -> None:
    """A contract's own words in an answer mean nothing: whatever they say, the chain is asked."""
    assert send_verdict(RpcError(-32603, form.format(reason))) is ASK


def test_unknown_transaction_is_not_known() -> None:
    """ "unknown transaction" contains "known transaction" and means the opposite."""
    assert send_verdict(RpcError(-32000, "unknown transaction type")) is ASK


@pytest.mark.parametrize(
    ("error", "reverted"),
    [
        (RpcError(3, "anything"), True),
        (RpcError(-32000, "execution reverted"), True),
        (RpcError(-32603, "Error: VM Exception while processing transaction: reverted"), True),
        (RpcError(-32015, "Execution error"), True),
        (RpcError(-32000, "invalid opcode: INVALID"), True),
        (RpcError(-32000, "out of gas"), True),
        (RpcError(-32603, "whatever", "0x"), True),
        (RpcError(-32603, "internal error"), False),
        (RpcError(-32000, "header not found"), False),
        (RpcError(-32005, "daily request count exceeded"), False),
    ],
)
def test_revert(error: RpcError, reverted: bool) -> None:
    """A simulation that the EVM failed is told from one that the node failed."""
    assert is_revert(error) is reverted


@pytest.mark.parametrize(
    ("error", "limited"),
    [
        (RpcError(-32005, "query returned more than 10000 results"), True),
        (RpcError(-32602, "invalid params"), True),
        (RpcError(-32600, "eth_getLogs is limited to a 10,000 range"), True),
        (RpcError(-32000, "exceed maximum block range: 50000"), True),
        (RpcError(-32000, "Log response size exceeded"), True),
        (RpcError(-32000, "query timeout exceeded"), True),
        (RpcError(-32000, "too many blocks"), True),
        (RpcError(-32603, "internal error"), False),
        (RpcError(-32000, "missing trie node"), False),
    ],
)
def test_range_limit(error: RpcError, limited: bool) -> None:
    """A log query that asked for too much is told from one that failed."""
    assert is_range_limit(error) is limited


@pytest.mark.parametrize(
    ("error", "missing"),
    [
        (RpcError(-32601, "whatever"), True),
        (RpcError(-32000, "the method eth_feeHistory does not exist/is not available"), True),
        (RpcError(-32004, "Method eth_feeHistory is not supported"), True),
        (RpcError(-32600, "Unsupported method: eth_feeHistory"), True),
        (RpcError(-32000, "METHOD NOT FOUND"), True),
        (RpcError(-32000, "header not found"), False),
        (RpcError(-32603, "internal error"), False),
        (RpcError(-32602, "invalid params"), False),
    ],
)
def test_missing_method(error: RpcError, missing: bool) -> None:
    """A method that the node lacks is told from one that failed."""
    assert is_missing_method(error) is missing


LIMITED = [
    "call rate limit exhausted",
    "project ID request rate exceeded",
    "Too Many Requests",
    "50/second request limit reached - reduce calls per second",
    "exceeded 100 requests per second",
    "Your app has exceeded its compute units per second capacity",
    "Your app has exceeded its concurrent requests capacity",
    "capacity exceeded",
    "daily request count exceeded, request rate limited",
]
"""As Infura, Alchemy, QuickNode and others write it."""


@pytest.mark.parametrize("message", LIMITED)
@pytest.mark.parametrize("code", [-32005, -32007, -32000, 429])
def test_rate_limit(message: str, code: int) -> None:
    """A node that is asked too often says so in words; the code alone says it only as 429."""
    assert is_rate_limit(RpcError(code, message))
    assert is_rate_limit(RpcError(429, ""))


@pytest.mark.parametrize(
    "error",
    [
        RpcError(-32005, "query returned more than 10000 results"),
        RpcError(-32005, "block range is too wide"),
        RpcError(-32005, "request limit: at most 10000 results"),
        RpcError(-32005, "limit exceeded"),
        RpcError(-32600, "eth_getLogs is limited to a 10,000 range"),
        RpcError(3, "rate limit"),
        RpcError(-32000, "execution reverted: too many requests"),
        RpcError(-32000, "in-flight transaction limit reached for delegated accounts"),
        RpcError(-32000, "account limit exceeded"),
    ],
)
def test_no_rate_limit(error: RpcError) -> None:
    """Limits of a query, of a pool and of a contract are none of the rate."""
    assert not is_rate_limit(error)


@pytest.mark.parametrize(
    ("error", "sick"),
    [
        (RpcError(-32000, "header not found"), True),
        (RpcError(-32000, "missing trie node 5f2e (path )"), True),
        (RpcError(-32603, "Internal error"), True),
        (RpcError(-32603, "database closed"), True),
        (RpcError(-32000, "execution aborted (timeout = 5s)"), True),
        (RpcError(-32000, "context deadline exceeded"), True),
        (RpcError(-32002, "request timed out"), True),
        (RpcError(-32000, "node is syncing"), True),
        (RpcError(-32000, "transaction indexing is in progress"), True),
        (RpcError(0, ""), True),
        (RpcError(3, "node is syncing"), False),
        (RpcError(-32000, "execution reverted: node is syncing"), False),
        (RpcError(-32603, "Internal error", "0x08c379a0"), False),
        (RpcError(-32000, "out of gas"), False),
        (RpcError(-32601, "whatever"), False),
        (RpcError(-32000, "the method eth_feeHistory does not exist/is not available"), False),
        (RpcError(-32005, "query returned more than 10000 results"), False),
        (RpcError(-32602, "invalid params"), False),
        (RpcError(-32000, "gas required exceeds allowance (21000)"), False),
        (RpcError(-32000, "insufficient funds for gas * price + value"), False),
        (RpcError(-32000, "max fee per gas less than block base fee"), False),
        (RpcError(-32000, "intrinsic gas too low"), False),
        (RpcError(-32000, "nonce too high"), False),
    ],
)
def test_sick(error: RpcError, sick: bool) -> None:
    """A node that failed is told from one that answers; what nobody knows is a failure."""
    assert is_sick(error) is sick
