"""What a replica depends on, checked before it takes its first message: a line for each problem."""

import asyncio
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from adapters.contracts import DEPLOYER_ROLE, HAS_ROLE, REGISTRAR_ROLE
from adapters.redis_access import refusal, refusals
from adapters.redis_client import unavailable
from adapters.redis_durable import Durability
from adapters.redis_keys import RedisKeys
from adapters.redis_lane import RedisLane
from adapters.redis_link import unreached
from adapters.rpc import Request, RpcError
from adapters.rpc_errors import is_revert
from adapters.rpc_pool import RpcPool
from adapters.strategies import PROXY, call_request
from saga.errors import Absence, ChainUnavailableError

_OLDEST_REDIS = (6, 2)
_WAITAOF_REDIS = (7, 2)
_NO_DATABASE = "DB index"
REDIS_SECONDS = 7.0
"""A start that waits says so within ten."""
PENDING_LOOKS = 3
PENDING_LOOK_SECONDS = 1.0
_NO_NODE = "no JSON-RPC reply"
_POOR = "has no funds on this chain"
_DEPLOY = "for a development chain: `saga contracts deploy`"


async def check_redis(
    client: "Redis",
    durability: Durability = "none",
    lists: Mapping[str, str] | None = None,
    keys: RedisKeys | None = None,
) -> list[str]:
    """Reachable, new enough, not evicting, not a cluster, able to be as durable as is asked.

    `lists`: the key of each list by the setting that names it; nothing else may be there. `keys`:
    what the user must be allowed to read and write.
    """
    lists = lists or {}
    try:
        async with asyncio.timeout(REDIS_SECONDS):
            if keys is not None and (refused := await refusals(client, keys, lists)):
                return refused
            info = await client.info()
            types = {} if info.get("loading") else await _types(client, lists)
    except AuthenticationError:
        return ["REDIS_URL: Redis refused the credentials; give redis://user:password@host"]
    except (RedisError, OSError) as error:  # TimeoutError is an OSError
        return [_away(error)]
    if info.get("loading"):
        return [Absence("REDIS_URL: Redis is loading its data; it will answer when it has it")]
    problems = []
    version = str(info.get("redis_version", "0.0"))
    numbers = tuple(int(part) for part in version.split(".")[:2])
    if numbers < _OLDEST_REDIS:
        problems.append(f"REDIS_URL: Redis {version} is too old; 6.2 or newer is needed")
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        problems.append(
            f"REDIS_URL: maxmemory-policy is {policy}, so Redis may drop sagas; "
            "set it to noeviction"
        )
    if info.get("redis_mode") == "cluster":
        problems.append("REDIS_URL: a Redis Cluster is not supported; use one primary")
    if durability == "aof" and numbers < _WAITAOF_REDIS:
        problems.append(
            f"REDIS_DURABILITY: aof needs WAITAOF, which Redis {version} lacks; 7.2 or newer has "
            "it; set it to replica, or none"
        )
    elif durability == "aof" and not info.get("aof_enabled"):
        problems.append(
            "REDIS_DURABILITY: aof, and this Redis keeps no append-only file; set its appendonly "
            "to yes"
        )
    return problems + [
        f"{name}: {lists[name]} is a {kind} in Redis, not a list; delete it, or name another list"
        for name, kind in types.items()
        if kind not in ("none", "list")
    ]


async def _types(client: "Redis", lists: Mapping[str, str]) -> dict[str, str]:
    """What is under each key, by the name of its setting."""
    kinds = {name: await client.type(key) for name, key in lists.items()}
    return {name: cast("bytes", kind).decode() for name, kind in kinds.items()}


def _away(error: RedisError | OSError) -> str:
    """The line for a Redis that cannot be asked: an Absence where waiting may help, so not with a
    server that says no, or speaks something else."""
    if (line := unreached(error)) is not None:
        return line
    known = unavailable(error) if isinstance(error, RedisError) else None
    if isinstance(error, RedisError) and (line := refusal([("", error)])) is not None:
        return line
    if isinstance(error, ResponseError) and _NO_DATABASE in str(error):
        return f"REDIS_URL: Redis refuses the database number ({error}); give redis://host:port/0"
    cause = error.__context__
    if isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_NONAME:
        return Absence("REDIS_URL: no name server knows this host; is it spelled right?")
    line = f"REDIS_URL: Redis does not answer ({type(error).__name__}); is it running there?"
    return line if isinstance(error, RedisError) and known is None else Absence(line)


def _refuses(error: Exception) -> bool:
    """Whether every endpoint answers, and none as a node: the path or the key in its URL is wrong.
    (A gateway whose node is away says HTTP 5xx.)"""
    return all(each.endswith(_NO_NODE) for each in str(error).split("; "))


async def check_chain(
    rpc: RpcPool,
    *,
    expected_chain: int | None,
    senders: Sequence[str],
    source: str,
    registry: str,
    manager: str,
    create2: bool,
    finality: bool = False,
) -> tuple[int, list[str]]:
    """The chain id, and the problems with node, contracts, roles and balances.

    `source`: the setting that the senders' keys come from.
    """
    try:
        chain_id = await rpc.check_chain()
    except (ChainUnavailableError, RpcError) as error:
        refused = [each.refused for each in rpc.health() if each.refused is not None]
        if expected_chain is not None and refused:
            return 0, [f"CHAIN_ID is {expected_chain}, but WEB3_PROVIDER_URL: {'; '.join(refused)}"]
        line = f"WEB3_PROVIDER_URL: no node answers ({error})"
        return 0, [line if _refuses(error) else Absence(line)]
    checks = _checks(senders, source, registry, manager, create2=create2)
    if finality:
        checks.append((("eth_getBlockByNumber", ["finalized", False]), _finalized))
    try:
        answers = await rpc.batch([request for request, _ in checks])
    except ChainUnavailableError as error:
        return chain_id, [Absence(f"WEB3_PROVIDER_URL: {error}")]
    for ((method, _), judge), answer in zip(checks, answers, strict=True):
        about_finality = judge is _finalized
        if isinstance(answer, RpcError) and not is_revert(answer) and not about_finality:
            return chain_id, [f"WEB3_PROVIDER_URL: {rpc.host} {method}: {answer}"]
    problems = [
        problem
        for (_, judge), answer in zip(checks, answers, strict=True)
        if (problem := judge(answer)) is not None
    ]
    poor = [problem for problem in problems if _POOR in problem]
    if len(poor) < len(senders):  # one key that can pay is enough: the others are passed over
        problems = [problem for problem in problems if problem not in poor]
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
    senders: Sequence[str], source: str, registry: str, manager: str, *, create2: bool
) -> list[tuple[Request, Judge]]:
    checks = [
        _code(registry, "MODEL_REGISTRY_ADDRESS", _DEPLOY),
        _code(manager, "TOKEN_MANAGER_ADDRESS", _DEPLOY),
    ]
    for sender in senders:
        checks.append(
            _role(registry, "MODEL_REGISTRY_ADDRESS", "REGISTRAR_ROLE", REGISTRAR_ROLE, sender)
        )
        checks.append((("eth_getBalance", [sender, "latest"]), _balance(sender, source)))
        if not create2:
            checks.append(
                _role(manager, "TOKEN_MANAGER_ADDRESS", "DEPLOYER_ROLE", DEPLOYER_ROLE, sender)
            )
    if create2:
        checks.append(
            _code(PROXY, "DEPLOY_STRATEGY=create2", "`saga contracts deploy` installs it")
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


def _finalized(answer: Any) -> str | None:
    if isinstance(answer, dict):
        return None
    return "CONFIRMATIONS: the node knows no finalized block; give a number of blocks instead"


def _balance(sender: str, source: str) -> Judge:
    def judge(answer: Any) -> str | None:
        with suppress(ValueError, TypeError):
            if int(answer, 16) > 0:
                return None
        return f"{source}: {sender} {_POOR}; send it some"

    return judge


async def check_pending(rpc: RpcPool, lane: RedisLane, source: str, *, adopt: bool) -> list[str]:
    """Transactions of the key that wait on the node without being known to Redis.

    Somebody else uses the key, or Redis has lost what it knew: new transactions would fight with
    these for their nonces. `adopt`: begin behind them instead. What is being mined right now is
    looked at again.
    """
    for _ in range(PENDING_LOOKS):
        counts = await rpc.batch(
            [("eth_getTransactionCount", [lane.sender, tag]) for tag in ("latest", "pending")]
        )
        if not all(isinstance(count, str) for count in counts):
            return [f"WEB3_PROVIDER_URL: {rpc.host} eth_getTransactionCount: {counts}"]
        mined, known = (int(count, 16) for count in counts)
        nonces = range(mined, known)
        glances = await lane.glances(nonces)
        unknown = [n for n, glance in zip(nonces, glances, strict=True) if glance is None]
        if adopt and unknown:
            await lane.raise_to(known)
        if adopt or not unknown:
            return []
        await asyncio.sleep(PENDING_LOOK_SECONDS)
    problem = (
        f"{source}: {len(unknown)} transaction(s) of {lane.sender} wait on the node "
        f"(nonces {unknown[0]} to {unknown[-1]}) and are unknown to this Redis: another program "
        "uses the key, or Redis was lost; wait until they are mined, or start with "
        "`saga run --adopt-pending` to begin behind them"
    )
    return [problem]
