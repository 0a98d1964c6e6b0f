"""Keys that signed here before: a start with another key would leave what they have out to nobody.

Where a former key has nonces out, a replica is refused until they are spent: their prices can be
raised, and holes filled, with that key alone.
"""

from collections.abc import Collection, Sequence

import structlog

from adapters.redis_lane import RedisLane, Standing
from adapters.redis_lanes import DRAINING, RETIRED, RedisLanes
from adapters.rpc import sane
from adapters.rpc_pool import RpcPool
from saga.errors import ChainUnavailableError

_log = structlog.get_logger("saga.lane")


def handed_to(mark: str) -> str:
    """The address that a retired lane went to; empty for one that is not retired."""
    return mark.removeprefix(RETIRED) if mark.startswith(RETIRED) else ""


def draining_to(mark: str) -> str:
    """The address that a lane is being drained for; empty for one that is not."""
    return mark.removeprefix(DRAINING) if mark.startswith(DRAINING) else ""


def out_of(standing: Standing, spent: int) -> range:
    """The nonces that a lane has given and the chain has not spent."""
    return range(spent, max(spent, standing.next or 0))


def span(nonces: range) -> str:
    """`nonce 5`, `nonces 5 to 8`."""
    if len(nonces) == 1:
        return f"nonce {nonces[0]}"
    return f"nonces {nonces[0]} to {nonces[-1]}"


async def check_former_keys(
    rpc: RpcPool,
    lanes: RedisLanes,
    chain_id: int,
    senders: Sequence[str],
    source: str,
    *,
    abandoned: Collection[str] = (),
) -> list[str]:
    """A line for each former key with nonces out, and for each key of ours that is retired.

    `source`: the setting that our keys come from. `abandoned`: former keys that are lost; whatever
    these have out is no obstacle. Changes nothing: `abandon` is for when nothing else is wrong.
    """
    problems = [
        line for each in abandoned if (line := await _no_former(lanes, chain_id, senders, each))
    ]
    marks = [(each, (await lanes.lane(chain_id, each).standing()).retired) for each in senders]
    problems += [
        _retired(source, senders, each, to) for each, mark in marks if (to := handed_to(mark))
    ]
    former = [
        lane
        for lane in await lanes.all()
        if lane.chain_id == chain_id and not _is_in(lane.sender, senders)
    ]
    try:
        return problems + await _outstanding(rpc, former, senders, abandoned, source)
    except ChainUnavailableError as error:
        return [*problems, f"WEB3_PROVIDER_URL: {error}"]


async def abandon(lanes: RedisLanes, chain_id: int, abandoned: Collection[str], heir: str) -> None:
    """Give up the lanes of lost keys: the next start need not name them again, and what they have
    out is done by others if it is not mined. `heir`: who starts in their place.

    SIDE EFFECTS: marks in Redis; a lane that was handed over already keeps its own.
    """
    for each in abandoned:
        lane = lanes.lane(chain_id, each)
        standing = await lane.standing()
        if not handed_to(standing.retired):
            _log.warning("lane.abandoned", sender=each, next_nonce=standing.next)
            await lane.retire("abandon", heir)


async def _no_former(
    lanes: RedisLanes, chain_id: int, senders: Sequence[str], address: str
) -> str | None:
    """Why an address is no former key that can be given up; None when it is one."""
    if _is_in(address, senders):
        return f"--abandon-key: {address} is a key that signs here; name the lost one"
    if not await lanes.knows(chain_id, address):
        return (
            f"--abandon-key: {address} never signed here on chain {chain_id}: `saga keys show` "
            "lists the former keys"
        )
    return None


def _is_in(address: str, addresses: Collection[str]) -> bool:
    return address.lower() in {each.lower() for each in addresses}


def _retired(source: str, senders: Sequence[str], sender: str, to: str) -> str:
    """Whose key `to` is nobody knows here: it may have been mistyped."""
    of_several = f" --from {sender}" if len(senders) > 1 else ""
    return (
        f"{source}: {sender} is retired, its work went to {to}: start with that key; or hand back "
        f"with `saga keys rotate --from {to} --to {sender}`; where {to} never signed here, "
        f"`saga keys rotate --to {sender}{of_several}`, run with these settings, lifts the mark"
    )


async def _outstanding(
    rpc: RpcPool,
    former: Sequence[RedisLane],
    senders: Sequence[str],
    abandoned: Collection[str],
    source: str,
) -> list[str]:
    # The lanes first: what is spent after that can only make less of what is out.
    standings = [await lane.standing() for lane in former]
    spent = await _spent(rpc, [lane.sender for lane in former])
    problems = []
    for lane, standing, count in zip(former, standings, spent, strict=True):
        nonces = out_of(standing, count)
        if not nonces or handed_to(standing.retired) or _is_in(lane.sender, abandoned):
            continue
        drained = " and is being drained" if draining_to(standing.retired) else ""
        problems.append(
            f"{source}: the former key {lane.sender} has {span(nonces)} out{drained}: start with "
            f"it again and hand over with `saga keys rotate --from {lane.sender} --to "
            f"{senders[0]}`; when it is lost, `saga run --abandon-key {lane.sender}`"
        )
    return problems


@sane
async def _spent(rpc: RpcPool, senders: Sequence[str]) -> list[int]:
    """How many nonces the chain has spent of each. Raises ChainUnavailableError."""
    if not senders:
        return []
    counts = await rpc.batch([("eth_getTransactionCount", [each, "latest"]) for each in senders])
    for count in counts:
        if not isinstance(count, str):
            raise ChainUnavailableError(f"{rpc.host} eth_getTransactionCount: {count}")
    return [int(count, 16) for count in counts]
