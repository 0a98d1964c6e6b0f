"""Node error texts → what to do. Foreign error strings die in this file.

Lower-case substring match, the message before the code, no anchors: nodes append details. The
strings are those of geth, erigon, bor, Besu, Nethermind, anvil and Hardhat.
"""

from enum import Enum, auto


class RpcError(Exception):
    """A node's own error answer. `data` is what the EVM returned, 0x hex, when there is any."""

    def __init__(self, code: int, message: str, data: str | None = None) -> None:
        super().__init__(f"{message} (code {code})")
        self.code = code
        self.message = message
        self.data = data


class SendVerdict(Enum):
    """What a node's answer to `eth_sendRawTransaction` means for the bytes."""

    KNOWN = auto()
    """The node has them."""
    ASK = auto()
    """Unknown or contradictory: the hash must be watched, the chain asked."""
    BUMP = auto()
    """Not taken at this price; the same nonce needs more."""
    WAIT = auto()
    """Not taken now; the same bytes may be taken later."""
    HOLD = auto()
    """Not taken before an operator does something, such as sending funds."""
    NEVER = auto()
    """No node will take these bytes."""


# The first match wins: "replacement transaction underpriced" contains "transaction underpriced".
_RULES: tuple[tuple[SendVerdict, tuple[str, ...]], ...] = (
    # Before all: the rest of such a text is a contract's, and may read like any of those below.
    # Hardhat, mining at once, answers with it to a transaction that it has put in a block.
    (SendVerdict.ASK, ("revert",)),
    (
        SendVerdict.KNOWN,
        (
            "already known",
            "alreadyknown",
            "transaction already imported",
            "existing txn with same hash",
            "same hash was already imported",
        ),
    ),
    (SendVerdict.ASK, ("unknown transaction",)),
    (SendVerdict.KNOWN, ("known transaction",)),
    (
        SendVerdict.ASK,
        (
            "nonce too low",
            "oldnonce",
            "replacement transaction underpriced",
            "could not replace existing tx",
        ),
    ),
    (
        SendVerdict.HOLD,
        (
            "insufficient funds",
            "upfront cost exceeds account balance",
            "doesn't have enough funds",
            "exceeds the configured cap",
            "transaction fee cap exceeded",
        ),
    ),
    (
        SendVerdict.NEVER,
        (
            "intrinsic gas too low",
            "intrinsic gas exceeds gas limit",
            "intrinsicgas",
            "intrinsic gas too high",
            "requires at least",
            "exceeds block gas limit",
            "gas limit reached",
            "transaction gas limit too high",
            "exceeds transaction gas cap",
            "insufficient gas for floor data gas cost",
            "max initcode size exceeded",
            "initcode too large",
            "oversized data",
            "invalid sender",
            "invalid chain id",
            "invalid chainid",
            "max priority fee per gas higher than max fee per gas",
            "is bigger than maxfeepergas",
            "only replay-protected",
        ),
    ),
    (
        SendVerdict.BUMP,
        (
            "transaction underpriced",
            "transaction gas price below minimum",
            "max fee per gas less than block base fee",
            "gas price below configured minimum gas price",
            "gas price below current base fee",
            "underpriced",
            "fee too low",
            "feetoolow",
            "is too low for the next block",
        ),
    ),
    (
        SendVerdict.WAIT,
        (
            "txpool is full",
            "sub-pool is full",
            "nonce too high",
            "noncegap",
            "nonce too far in future",
            "too distant from current sender nonce",
            "future transaction tries to replace pending",
            "account limit exceeded",
            "address already reserved",
            "in-flight transaction limit reached",
            "node is syncing",
            "transaction indexing is in progress",
        ),
    ),
)


def send_verdict(error: RpcError) -> SendVerdict:
    """What to do with bytes that a node answered with this error. Unknown text: ask the chain."""
    message = error.message.lower()
    for verdict, texts in _RULES:
        if any(text in message for text in texts):
            return verdict
    return SendVerdict.ASK


_REVERTS = (
    *("revert", "invalid opcode", "out of gas", "vm exception", "execution error"),
    *("invalid jump", "stack underflow", "stack limit", "write protection", "address collision"),
)


_PRICES = ("replacement transaction underpriced", "could not replace existing tx")


def is_underpriced(error: RpcError) -> bool:
    """Whether the same nonce needs a better price: for the pool, or to replace what is there."""
    message = error.message.lower()
    return send_verdict(error) is SendVerdict.BUMP or any(text in message for text in _PRICES)


def is_revert(error: RpcError) -> bool:
    """Whether a simulation failed in the EVM, and not in the node."""
    message = error.message.lower()
    return error.code == 3 or error.data is not None or any(t in message for t in _REVERTS)


def is_range_limit(error: RpcError) -> bool:
    """Whether a log query asked for more than the node gives at once."""
    message = error.message.lower()
    words = ("range", "too many", "limit", "exceed", "more than", "response size", "query timeout")
    return error.code in (-32005, -32602) or any(word in message for word in words)


_TOO_MANY = 429
_RATES = (
    "rate limit",
    "request rate exceeded",
    "too many requests",
    "request limit",
    "requests per second",
    "concurrent requests capacity",
    "exceeded its compute units",
    "capacity exceeded",
    "daily request count exceeded",
)
"""As Infura, Alchemy, QuickNode and proxies before nodes write them, under various codes."""
_LOG_LIMITS = ("block range", "results")


def is_rate_limit(error: RpcError) -> bool:
    """Whether the node has declined to look at the question: asked too often, it is no answer.

    A contract's own words about rates are an answer, and so is the limit of a log query.
    """
    message = error.message.lower()
    other = error.code == 3 or any(text in message for text in (*_REVERTS, *_LOG_LIMITS))
    spoken = any(text in message for text in _RATES)
    return error.code == _TOO_MANY or (spoken and not other)


_NO_METHOD = -32601
"""JSON-RPC 2.0, "Method not found". Hardhat and EIP-1474 say -32004, and others the text alone."""
_MISSING = ("not found", "not supported", "unsupported", "not available", "not exist")


def is_missing_method(error: RpcError) -> bool:
    """Whether the node has no such method at all."""
    message = error.message.lower()
    named = "method" in message and any(text in message for text in _MISSING)
    return error.code == _NO_METHOD or named


_UNWELL = ("node is syncing", "transaction indexing is in progress", "deadline exceeded")
"""About the node, though they are verdicts on a send or look like a limit."""


def is_sick(error: RpcError) -> bool:
    """Whether the node has failed, and said nothing of the question: another one may answer it.

    Reverts, missing methods, log limits, and words about a transaction or its funds are answers.
    Unknown texts are none: that costs one more question, where the opposite costs the answer.
    """
    if is_revert(error) or is_missing_method(error):
        return False
    if any(text in error.message.lower() for text in _UNWELL):
        return True
    return not is_range_limit(error) and send_verdict(error) is SendVerdict.ASK
