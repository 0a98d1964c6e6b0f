"""A key in a remote signer: Web3Signer, Clef, or a node that signs, such as anvil.

It is told what to sign, and its answer is compared with that field by field.
"""

from typing import Any

from eth_utils.address import is_address, to_checksum_address

from adapters.signer_answer import UntrustedError, trusted
from adapters.signer_line import METHOD_NOT_FOUND, SignerLine, SignerLineError
from adapters.transaction import Transaction
from saga.errors import SignerError

METHODS = (("eth_accounts", "eth_signTransaction"), ("account_list", "account_signTransaction"))
"""How accounts are listed, and how is signed: by Web3Signer, geth and anvil, and by Clef, which has
nothing in the namespace `eth` (geth, cmd/clef/README.md and accounts/external/backend.go)."""
_MAX_NAMED = 3  # accounts in an error


class RemoteKey:
    """`adapters.signer.Key`."""

    kind = "remote signer"

    def __init__(self, line: SignerLine, address: str, methods: list[str]) -> None:
        """`methods` may sign; the first that the signer knows is kept."""
        self._line = line
        self._methods = methods
        self.address = address

    def __repr__(self) -> str:
        return f"RemoteKey({self.address} at {self._line.host})"

    async def sign(self, transaction: Transaction) -> bytes:
        try:
            answer = await self._signed(_request(transaction, self.address))
            return trusted(transaction, answer, self.address)
        except (SignerLineError, UntrustedError) as error:
            raise SignerError(f"remote signer {self._line.host} {error}") from None

    async def _signed(self, request: dict[str, Any]) -> Any:
        *others, last = self._methods
        for method in others:
            try:
                answer = await self._line.ask(method, request)
            except SignerLineError as error:
                if error.code != METHOD_NOT_FOUND:
                    raise
            else:
                self._methods = [method]
                return answer
        answer = await self._line.ask(last, request)
        self._methods = [last]
        return answer

    async def close(self) -> None:
        await self._line.close()


async def open_remote(url: str, *, address: str | None, timeout: float) -> RemoteKey:
    """The key of `address`, else of the only account that the signer has.

    `timeout` is for each question, seconds. Raises ValueError: what follows the setting's name. Of
    the URL it shows scheme, host and port. A signer that lists no account is taken at its word of
    `address`: the first signature shows.

    SIDE EFFECTS: asks the signer for its accounts.
    """
    line = SignerLine(url, timeout)
    try:
        listed, methods = await _listed(line, pinned=address is not None)
        return RemoteKey(line, _chosen(listed, address), methods)
    except SignerLineError as error:
        await line.close()
        raise ValueError(f"{line.host} {error}") from None
    except BaseException:
        await line.close()
        raise


async def _listed(line: SignerLine, *, pinned: bool) -> tuple[list[str], list[str]]:
    """The accounts, and the methods to sign with, the likelier first."""
    refusal = ""
    for listing, signing in METHODS:
        try:
            found = _addresses(listing, await line.ask(listing))
        except SignerLineError as error:
            if error.code is None:
                raise
            refusal = f"{error}; set DEPLOYER_ADDRESS to the account to use"
        else:
            others = [other for _, other in METHODS if other != signing]
            return found, [signing, *others]
    if not pinned:
        raise SignerLineError(refusal)
    return [], [signing for _, signing in METHODS]


def _addresses(method: str, answer: object) -> list[str]:
    """Checksummed. Older Clefs list objects. Raises SignerLineError."""
    if not isinstance(answer, list):
        raise SignerLineError(f"gave no list of accounts to {method}")
    found = [each.get("address") if isinstance(each, dict) else each for each in answer]
    if not all(isinstance(each, str) and is_address(each) for each in found):
        raise SignerLineError(f"gave no list of accounts to {method}")
    return list(dict.fromkeys(str(to_checksum_address(each)) for each in found))


def _chosen(listed: list[str], address: str | None) -> str:
    """The account to use. Raises SignerLineError."""
    named = ", ".join(listed[:_MAX_NAMED]) + (", …" if len(listed) > _MAX_NAMED else "")
    if address is not None:
        if listed and address not in listed:
            raise SignerLineError(f"has no key of DEPLOYER_ADDRESS {address}, but of {named}")
        return address
    if not listed:
        raise SignerLineError(
            "lists no account: give it a key, or set DEPLOYER_ADDRESS if it lists none of those "
            "it has"
        )
    if len(listed) > 1:
        raise SignerLineError(
            f"has {len(listed)} accounts ({named}); set DEPLOYER_ADDRESS to the one to use"
        )
    return listed[0]


def _request(transaction: Transaction, sender: str) -> dict[str, Any]:
    """What is asked for. Numbers are hex without leading zeros: web3j and geth refuse others.

    `data` alone, without `input`: Web3Signer takes it before `input`, which older ones do not know
    (EthSendTransactionJsonParameters.data); Clef takes either, and both only when they are equal
    (signer/fourbyte, ValidateTransaction); anvil 1.7 takes either. Addresses have their checksum:
    Clef warns of others, and without `--advanced` a warning is a refusal.
    """
    fees = transaction.fees
    request: dict[str, Any] = {
        "from": sender,
        "gas": hex(transaction.gas),
        "value": hex(transaction.value),
        "nonce": hex(transaction.nonce),
        "data": "0x" + transaction.data.hex(),
        "chainId": hex(transaction.chain_id),
    }
    if transaction.to:
        request["to"] = to_checksum_address(transaction.to)
    if fees.legacy:
        return request | {"gasPrice": hex(fees.max_fee)}
    request |= {
        "maxFeePerGas": hex(fees.max_fee),
        "maxPriorityFeePerGas": hex(fees.max_priority_fee),
    }
    if transaction.access:
        request["accessList"] = [
            {"address": to_checksum_address(entry), "storageKeys": ["0x" + k.hex() for k in keys]}
            for entry, keys in transaction.access
        ]
    return request
