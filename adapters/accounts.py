"""What the chain says of a deployer's address: funds, nonces, and what it may do."""

from typing import Any

import msgspec

from adapters.contracts import DEPLOYER_ROLE, GRANT_ROLE, HAS_ROLE, REGISTRAR_ROLE, REVOKE_ROLE
from adapters.rpc import Request, sane
from adapters.rpc_pool import RpcPool
from adapters.strategies import call_request
from saga.errors import ChainUnavailableError

_DELEGATED = "0xef0100"
"""EIP-7702: how the code of an account begins whose key has delegated it and still signs for it."""


class RoleCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call that an admin of the contract makes."""

    contract: str
    call: str
    data: str
    """Calldata, 0x hex."""


class Role(msgspec.Struct, frozen=True, kw_only=True):
    """Whether an address has a role on a contract; None when that cannot be read."""

    name: str
    id: str
    contract: str
    address: str
    held: bool | None = None

    def grant(self) -> RoleCall:
        return self._call("grantRole", GRANT_ROLE.encode(self._id, self.address))

    def revoke(self) -> RoleCall:
        return self._call("revokeRole", REVOKE_ROLE.encode(self._id, self.address))

    @property
    def _id(self) -> bytes:
        return bytes.fromhex(self.id[2:])

    def question(self) -> Request:
        return call_request(self.contract, HAS_ROLE.encode(self._id, self.address))

    def _call(self, verb: str, data: str) -> RoleCall:
        return RoleCall(
            contract=self.contract,
            call=f"{verb}(keccak256('{self.name}'), {self.address})",
            data=data,
        )


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """One address. Amounts in wei."""

    address: str
    balance: int
    spent: int
    pending: int
    """Nonces, those of transactions included that wait on the node."""
    roles: tuple[Role, ...]


def roles_of(
    address: str, *, registry: str | None, manager: str | None, create2: bool
) -> list[Role]:
    """Those that a deployer needs, on the contracts that are known."""
    roles = []
    if registry is not None:
        name = "REGISTRAR_ROLE"
        roles.append(Role(name=name, id=REGISTRAR_ROLE, contract=registry, address=address))
    if manager is not None and not create2:
        name = "DEPLOYER_ROLE"
        roles.append(Role(name=name, id=DEPLOYER_ROLE, contract=manager, address=address))
    return roles


@sane
async def look_at(rpc: RpcPool, address: str, roles: list[Role]) -> Account:
    """Ask the best node. Raises ChainUnavailableError."""
    requests: list[Request] = [
        ("eth_getBalance", [address, "latest"]),
        ("eth_getTransactionCount", [address, "latest"]),
        ("eth_getTransactionCount", [address, "pending"]),
    ]
    answers = await rpc.batch(requests + [role.question() for role in roles])
    for (method, _), answer in zip(requests, answers, strict=False):
        if not isinstance(answer, str):
            raise ChainUnavailableError(f"{rpc.host} {method}: {answer}")
    balance, spent, pending = (int(answer, 16) for answer in answers[:3])
    return Account(
        address=address,
        balance=balance,
        spent=spent,
        pending=max(spent, pending),
        roles=tuple(
            msgspec.structs.replace(role, held=_held(answer))
            for role, answer in zip(roles, answers[3:], strict=True)
        ),
    )


@sane
async def is_contract(rpc: RpcPool, address: str) -> bool:
    """Whether an address has code, and so no key. Raises ChainUnavailableError."""
    (code,) = await rpc.batch([("eth_getCode", [address, "latest"])])
    if not isinstance(code, str):
        raise ChainUnavailableError(f"{rpc.host} eth_getCode: {code}")
    return code not in ("", "0x") and not code.lower().startswith(_DELEGATED)


def _held(answer: Any) -> bool | None:
    try:
        return bool(HAS_ROLE.decode(answer)[0])
    except (ValueError, TypeError):
        return None
