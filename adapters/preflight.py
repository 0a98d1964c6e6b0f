"""What a replica depends on, checked before it takes its first message: a line for each problem."""

import asyncio
from collections.abc import Callable
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, RedisError

from adapters.contracts import DEPLOYER_ROLE, HAS_ROLE, REGISTRAR_ROLE
from adapters.rpc import Request, RpcClient, RpcError
from adapters.rpc_errors import is_revert
from adapters.strategies import PROXY, call_request
from saga.errors import ChainUnavailableError

_OLDEST_REDIS = (6, 2)
REDIS_SECONDS = 10.0
_DEPLOY = "for a development chain: `saga contracts deploy`"


async def check_redis(client: "Redis") -> list[str]:
    """Reachable, new enough, not evicting, not a cluster."""
    try:
        async with asyncio.timeout(REDIS_SECONDS):
            info = await client.info()
    except AuthenticationError:
        return ["REDIS_URL: Redis refused the credentials; give redis://user:password@host"]
    except (RedisError, OSError) as error:  # TimeoutError is an OSError
        return [f"REDIS_URL: Redis does not answer ({type(error).__name__}); is it running there?"]
    problems = []
    version = str(info.get("redis_version", "0.0"))
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST_REDIS:
        problems.append(f"REDIS_URL: Redis {version} is too old; 6.2 or newer is needed")
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        problems.append(
            f"REDIS_URL: maxmemory-policy is {policy}, so Redis may drop sagas; "
            "set it to noeviction"
        )
    if info.get("redis_mode") == "cluster":
        problems.append("REDIS_URL: a Redis Cluster is not supported; use one primary")
    return problems


async def check_chain(
    rpc: RpcClient,
    *,
    expected_chain: int | None,
    sender: str,
    registry: str,
    manager: str,
    create2: bool,
) -> tuple[int, list[str]]:
    """The chain id, and the problems with node, contracts, roles and balance."""
    try:
        chain_id = int(await rpc.call("eth_chainId"), 16)
    except (ChainUnavailableError, RpcError) as error:
        return 0, [f"WEB3_PROVIDER_URL: no node answers ({error})"]
    if expected_chain is not None and chain_id != expected_chain:
        return chain_id, [
            f"CHAIN_ID is {expected_chain}, but the node at WEB3_PROVIDER_URL is on {chain_id}"
        ]
    checks = _checks(sender, registry, manager, create2=create2)
    try:
        answers = await rpc.batch([request for request, _ in checks])
    except ChainUnavailableError as error:
        return chain_id, [f"WEB3_PROVIDER_URL: {error}"]
    for ((method, _), _), answer in zip(checks, answers, strict=True):
        if isinstance(answer, RpcError) and not is_revert(answer):
            return chain_id, [f"WEB3_PROVIDER_URL: {rpc.host} {method}: {answer}"]
    problems = [
        problem
        for (_, judge), answer in zip(checks, answers, strict=True)
        if (problem := judge(answer)) is not None
    ]
    # A contract without code answers nothing about roles: one line about it is enough.
    lacking = [name for name in ("MODEL_REGISTRY", "TOKEN_MANAGER") if _lacks(name, problems)]
    return chain_id, [
        problem
        for problem in problems
        if not any(problem.startswith(f"{name}_ADDRESS: role") for name in lacking)
    ]


def _lacks(name: str, problems: list[str]) -> bool:
    return any(p.startswith(f"{name}_ADDRESS: no contract") for p in problems)


Judge = Callable[[Any], str | None]


def _checks(
    sender: str, registry: str, manager: str, *, create2: bool
) -> list[tuple[Request, Judge]]:
    checks = [
        _code(registry, "MODEL_REGISTRY_ADDRESS", _DEPLOY),
        _code(manager, "TOKEN_MANAGER_ADDRESS", _DEPLOY),
        _role(registry, "MODEL_REGISTRY_ADDRESS", "REGISTRAR_ROLE", REGISTRAR_ROLE, sender),
        (("eth_getBalance", [sender, "latest"]), _balance(sender)),
        (("eth_getBlockByNumber", ["latest", False]), _base_fee),
    ]
    if create2:
        checks.append(
            _code(PROXY, "DEPLOY_STRATEGY=create2", "`saga contracts deploy` installs it")
        )
    else:
        checks.append(
            _role(manager, "TOKEN_MANAGER_ADDRESS", "DEPLOYER_ROLE", DEPLOYER_ROLE, sender)
        )
    return checks


def _code(address: str, setting: str, fix: str) -> tuple[Request, Judge]:
    def judge(answer: Any) -> str | None:
        if isinstance(answer, str) and len(answer) > len("0x"):
            return None
        return f"{setting}: no contract at {address} on this chain; {fix}"

    return ("eth_getCode", [address, "latest"]), judge


def _role(contract: str, setting: str, name: str, role: str, sender: str) -> tuple[Request, Judge]:
    def judge(answer: Any) -> str | None:
        try:
            if HAS_ROLE.decode(answer)[0]:
                return None
        except (ValueError, TypeError):
            return f"{setting}: role {name} cannot be read; {contract} is another contract"
        return (
            f"{setting}: role {name} is missing for {sender}; as its admin: "
            f"grantRole(keccak256('{name}'), {sender}) on {contract}"
        )

    data = HAS_ROLE.encode(bytes.fromhex(role[2:]), sender)
    return call_request(contract, data), judge


def _balance(sender: str) -> Judge:
    def judge(answer: Any) -> str | None:
        if isinstance(answer, str) and int(answer, 16) > 0:
            return None
        return f"DEPLOYER_PRIVATE_KEY: {sender} has no funds on this chain; send it some"

    return judge


def _base_fee(answer: Any) -> str | None:
    if isinstance(answer, dict) and "baseFeePerGas" in answer:
        return None
    return "WEB3_PROVIDER_URL: the chain has no base fee (EIP-1559), which this release needs"
