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

    `source`: the setting that our keys come from.

    SIDE EFFECTS: the lane of an `abandoned` key is marked as retired, so that the next start need
    not say so again.
    """
    problems = [
        f"--abandon-key: {each} is a key that signs here; name the lost one"
        for each in abandoned
        if _is_in(each, senders)
    ]
    marks = [(each, (await lanes.lane(chain_id, each).standing()).retired) for each in senders]
    problems += [_retired(source, each, to) for each, mark in marks if (to := handed_to(mark))]
    former = [
        lane
        for lane in await lanes.all()
        if lane.chain_id == chain_id and not _is_in(lane.sender, senders)
    ]
    try:
        return problems + await _outstanding(rpc, former, senders, abandoned, source)
    except ChainUnavailableError as error:
        return [*problems, f"WEB3_PROVIDER_URL: {error}"]


def _is_in(address: str, addresses: Collection[str]) -> bool:
    return address.lower() in {each.lower() for each in addresses}


def _retired(source: str, sender: str, to: str) -> str:
    return (
        f"{source}: {sender} is retired, its work went to {to}: start with that key; or hand back "
        f"with `saga keys rotate --to {sender}`, run with the settings of {to}"
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
        if not nonces or handed_to(standing.retired):
            continue
        if _is_in(lane.sender, abandoned):
            _log.warning("lane.abandoned", sender=lane.sender, nonces=span(nonces))
            await lane.retire("abandon", senders[0])
            continue
        drained = " and is being drained" if draining_to(standing.retired) else ""
        problems.append(
            f"{source}: the former key {lane.sender} has {span(nonces)} out{drained}: start with "
            f"it again and hand over with `saga keys rotate --to {senders[0]}`; when it is lost, "
            f"`saga run --abandon-key {lane.sender}`"
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
