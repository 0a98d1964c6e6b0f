"""A node's receipt as the saga keeps it."""

from typing import Any

from eth_utils.address import to_checksum_address

from saga.model import Receipt


def receipt_of(raw: dict[str, Any], block_time: int) -> Receipt:
    """A node's receipt as ours."""
    return Receipt(
        tx_hash=raw["transactionHash"],
        block_number=int(raw["blockNumber"], 16),
        block_hash=raw["blockHash"],
        block_time=block_time,
        sender=to_checksum_address(raw["from"]),
        gas_used=int(raw["gasUsed"], 16),
        gas_price=int(raw["effectiveGasPrice"], 16),
    )
