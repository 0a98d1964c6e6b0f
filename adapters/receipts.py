"""A node's receipts: fetched once per block for everything that is in it, and judged."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from eth_utils.address import to_checksum_address

from adapters.rpc import Request, Rpc, RpcError
from adapters.rpc_errors import is_missing_method
from saga.errors import ChainUnavailableError
from saga.model import Receipt

REFUSALS = 3
"""Errors in a row after which a block's receipts are not asked for any more."""
BLOCK_SHARE = 20
"""All receipts of a block are asked for in one call when at least one in so many is ours."""

Raw = dict[str, Any]


def receipt_of(raw: Raw, block_time: int) -> Receipt:
    """A node's receipt as ours. A chain without EIP-1559 may leave the effective price out."""
    return Receipt(
        tx_hash=raw["transactionHash"],
        block_number=int(raw["blockNumber"], 16),
        block_hash=raw["blockHash"],
        block_time=block_time,
        sender=to_checksum_address(raw["from"]),
        gas_used=int(raw["gasUsed"], 16),
        gas_price=int(raw.get("effectiveGasPrice") or "0x0", 16),
    )


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
