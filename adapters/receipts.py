"""A node's receipts: fetched once per block for everything that is in it, and judged."""

import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from eth_utils.address import to_checksum_address

from adapters.rpc import Request, Rpc, RpcError
from adapters.rpc_errors import is_missing_method
from saga.costs import receipt_cost
from saga.errors import ChainUnavailableError
from saga.facts import Cancelled, NonceTaken, Reverted
from saga.model import PRICE_PATTERN, Attempt, AttemptKind, Intent, Receipt

REFUSALS = 3
"""Errors in a row after which a block's receipts are not asked for any more."""
BLOCK_SHARE = 20
"""All receipts of a block are asked for in one call when at least one in so many is ours."""

Raw = dict[str, Any]


def receipt_of(
    raw: Raw,
    block_time: int,
    *,
    attempt: Attempt | None = None,
    native_usd: Decimal | None = None,
) -> Receipt:
    """A node's receipt as ours.

    `attempt`: the transaction, when it is ours: a chain without EIP-1559 may leave the effective
    price out, and takes what was offered. `native_usd`: price of one native token now.
    """
    offered = 0 if attempt is None else attempt.max_fee
    return Receipt(
        tx_hash=raw["transactionHash"],
        block_number=int(raw["blockNumber"], 16),
        block_hash=raw["blockHash"],
        block_time=block_time,
        sender=to_checksum_address(raw["from"]),
        gas_used=int(raw["gasUsed"], 16),
        gas_price=int(raw.get("effectiveGasPrice") or hex(offered), 16),
        l1_fee=_l1_fee(raw),
        native_usd=_price_text(native_usd),
    )


def came_to_nothing(
    raw: Raw, attempt: Attempt, intent: Intent
) -> Cancelled | NonceTaken | Reverted | None:
    """What the receipt of a transaction says that did not do its step's work, with what it cost;
    None of one that did."""
    cost = receipt_cost(receipt_of(raw, 0, attempt=attempt))
    match attempt.kind:
        case AttemptKind.CANCEL:
            return Cancelled(attempt.hash, cost)
        case AttemptKind.FILL:
            return NonceTaken(intent.nonce, cost)
        case AttemptKind.CALL if int(raw["status"], 16) == 0:
            return Reverted(attempt.hash, int(raw["blockNumber"], 16), cost)
        case AttemptKind.CALL:
            return None


def _l1_fee(raw: Raw) -> int:
    """Only OP-stack nodes say it, each in its own way: what is no number is none."""
    try:
        return max(int(raw.get("l1Fee") or "0x0", 16), 0)
    except (TypeError, ValueError):
        return 0


def _price_text(price: Decimal | None) -> str | None:
    """None also for what is no price: it must not be stored."""
    text = "" if price is None else f"{price:f}"
    return text if re.match(PRICE_PATTERN, text) else None


class Receipts:
    """Fetches receipts by block where that is cheaper, else by hash, in one batch."""

    def __init__(self, rpc: Rpc) -> None:
        self._rpc = rpc
        self._refusals = 0
        self._by_block = True
        """False once a node has said that it does not know eth_getBlockReceipts, or has answered
        it with an error again and again: some do not serve it, and say so in many ways."""

    async def fetch(
        self,
        wanted: Mapping[int, Sequence[str]],
        sizes: Mapping[int, int],
        unplaced: Iterable[str],
        also: Sequence[Request],
    ) -> tuple[dict[str, Raw], set[str], list[Any]]:
        """The receipts of hashes seen in blocks (`wanted`: number → hashes) and of others.

        `sizes`: how many transactions a block holds. Returns the receipts by hash, the hashes that
        a node answered with an error, and the answers to `also`. One round trip, and one more when
        a node does not give the receipts of a block.
        """
        blocks = [n for n, hashes in wanted.items() if self._worth_a_block(hashes, sizes.get(n))]
        singles = [h for n, hashes in wanted.items() if n not in blocks for h in hashes]
        singles += unplaced
        requests: list[Request] = [("eth_getBlockReceipts", [hex(n)]) for n in blocks]
        requests += [("eth_getTransactionReceipt", [h]) for h in singles]
        answers = await self._rpc.batch([*requests, *also])
        found: dict[str, Raw] = {}
        unknown: set[str] = set()
        missed: list[str] = []
        for number, answer in zip(blocks, answers, strict=False):
            if isinstance(answer, list):
                self._refusals = 0
                found |= {raw["transactionHash"]: raw for raw in answer}
            else:
                self._refusals += isinstance(answer, RpcError)
                missing = isinstance(answer, RpcError) and is_missing_method(answer)
                self._by_block &= not missing and self._refusals < REFUSALS
                missed += wanted[number]
        for tx_hash, answer in zip(singles, answers[len(blocks) :], strict=False):
            if isinstance(answer, RpcError):
                unknown.add(tx_hash)
            elif answer is not None:
                found[tx_hash] = answer
        if missed:
            rest, unsaid, _ = await self.fetch({}, {}, missed, [])
            found, unknown = found | rest, unknown | unsaid
        return found, unknown - found.keys(), answers[len(requests) :]

    def _worth_a_block(self, hashes: Sequence[str], size: int | None) -> bool:
        return self._by_block and len(hashes) > 1 and len(hashes) * BLOCK_SHARE >= (size or 0)

    async def of(self, hashes: Sequence[str]) -> dict[str, Raw]:
        """The receipts of some transactions. Raises ChainUnavailableError when a node cannot tell
        about one that has none."""
        found, unknown, _ = await self.fetch({}, {}, hashes, [])
        if unknown and not found:
            raise ChainUnavailableError(
                f"{self._rpc.host} eth_getTransactionReceipt: an error instead of an answer"
            )
        return found


def shows_code(raw: Raw, intent: Intent) -> bool:
    """Whether a receipt proves that the token has code in its block: its constructor, which ends
    with the code in place or fails the transaction, has logged there."""
    token = intent.predicted.lower()
    return any(log["address"].lower() == token for log in raw.get("logs") or ())
