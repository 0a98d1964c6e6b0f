"""`saga keys rotate`: drain a key's lane, prove that nothing of it is outstanding, hand it over.

Run it with the old key's settings while its replicas run: they finish what is out, and take no new
nonces. When it is done, start them again with the new key.
"""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from adapters.drain import Remains
from adapters.log_setup import configure_logging
from adapters.redis_lanes import RedisLanes
from saga.checks import check_address
from saga.cli.keys_desk import KeySource, LaneDesk, NodeSettings, open_node
from saga.cli.keys_drain import STOPPED, drained, refuse_retired, say
from saga.cli.keys_handover import Handover, ToDo, left_to_do, print_handover
from saga.cli.render import print_json
from saga.config import StoreSettings, load
from saga.errors import ConfigError, SagaError, UsageError
from saga.signer_settings import SignerSettings
from saga.signers import forget_environment, open_signers
from saga.store import open_store, redis_keys

_NOBODY = "0x" + "00" * 20


def rotate_keys(to: str, *, sender: str | None, wait: float, dry_run: bool, as_json: bool) -> None:
    """`sender`: the old key's address, where it cannot be opened. `wait`: seconds.

    Raises UsageError when the lane is not handed over, with the reason; after Ctrl-C the reason is
    printed, and KeyboardInterrupt raised.
    """
    configure_logging("ERROR", "json")
    heir, old = _address("--to", to), None if sender is None else _address("--from", sender)
    if heir == _NOBODY:
        raise UsageError(f"--to {heir} is nobody's address: give that of the new key")
    stop = _Stop()
    try:
        done = asyncio.run(_rotate(heir, old, wait, stop, dry_run=dry_run))
    except SagaError as error:
        if stop.number is not signal.SIGINT:
            raise
        say(str(error))
        raise KeyboardInterrupt from None
    if as_json:
        print_json(done)
    else:
        print_handover(done)


def _address(option: str, value: str) -> str:
    try:
        return check_address(value)
    except ValueError as error:
        raise UsageError(f"{option} {error}") from None


class _Stop:
    """SIGTERM and Ctrl-C cancel the work once: what it does then is finite, and must be done."""

    def __init__(self) -> None:
        self.number: signal.Signals | None = None
        self.over = False
        """Set when there is nothing to stop any more."""

    def listen(self) -> None:
        """From now on, for the current task."""
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None  # noqa: S101 - this is one
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._got, number, task)

    def _got(self, number: signal.Signals, task: "asyncio.Task[object]") -> None:
        if not self.over:
            self.number, self.over = number, True
            task.cancel()


async def _rotate(
    to: str, sender: str | None, wait: float, stop: _Stop, *, dry_run: bool
) -> Handover:
    stop.listen()
    try:
        async with _opened(sender) as desk:
            if to == desk.sender:
                return await _lift(desk, dry_run=dry_run)
            # Before anything is marked: what cannot be told now cannot be told at the end either.
            to_do = await left_to_do(desk, to)
            if dry_run:
                return await _rehearsed(desk, to, to_do)
            try:
                remains = await drained(desk, to, wait)
            finally:
                stop.over = True
            return _handover(desk, to, "retired", remains, to_do)
    except asyncio.CancelledError:
        raise UsageError(STOPPED) from None


@asynccontextmanager
async def _opened(sender: str | None) -> AsyncIterator[LaneDesk]:
    """The key is opened for its address alone; a key that is named is not opened."""
    signing = load(SignerSettings) if sender is None else None
    problems: list[str] = []
    for kind in (StoreSettings, NodeSettings):
        try:
            load(kind)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    store, node = load(StoreSettings), load(NodeSettings)
    source = None if sender is None else _source_of(sender)
    forget_environment()
    named = sender is not None
    if signing is not None:
        async with open_signers(signing) as signers:
            addresses = [signer.address for signer in signers]
        if len(addresses) > 1:
            raise UsageError(f"several keys are set: give --from, one of {', '.join(addresses)}")
        (sender,) = addresses
        source = KeySource(setting=signing.source, signing=addresses)
    assert sender is not None  # noqa: S101 - one of the two
    async with open_node(node) as (rpc, chain_id), open_store(store) as (views, _):
        lanes = RedisLanes(views.client, redis_keys(store))
        if named and not await lanes.knows(chain_id, sender):
            raise UsageError(
                f"--from {sender} never signed here on chain {chain_id}: `saga keys show` lists "
                "the keys that did"
            )
        lane = lanes.lane(chain_id, sender)
        yield LaneDesk(rpc=rpc, views=views, lane=lane, settings=node, source=source, named=named)


def _source_of(sender: str) -> KeySource | None:
    """What is set beside --from, as far as it is about that key."""
    try:
        settings = load(SignerSettings)
    except ConfigError:
        return None
    setting, pinned = settings.source, settings.pinned
    if pinned:
        return KeySource(setting=setting, signing=pinned) if sender in pinned else None
    several = setting == "DEPLOYER_PRIVATE_KEYS_FILE"
    return KeySource(setting=setting, signing=None if several else [sender])


# --- Undoing, rehearsing, telling.


async def _lift(desk: LaneDesk, *, dry_run: bool) -> Handover:
    """Hand the lane back to its own key."""
    standing = await desk.lane.standing()
    result = "nothing to lift"
    if standing.retired:
        result = "would be lifted" if dry_run else "lifted"
    if not dry_run:
        await desk.lane.retire("lift")
    return Handover(
        chain_id=desk.lane.chain_id,
        old=desk.sender,
        new=desk.sender,
        result=result,
        next_nonce=standing.next,
        reasons=[],
        to_do=ToDo(),
    )


async def _rehearsed(desk: LaneDesk, to: str, to_do: ToDo) -> Handover:
    """What stands in the way now; nothing is changed."""
    await refuse_retired(desk, to)
    remains = await desk.drain().look()
    result = "would be drained" if remains.reasons else "would be retired"
    return _handover(desk, to, result, remains, to_do)


def _handover(desk: LaneDesk, to: str, result: str, remains: Remains, to_do: ToDo) -> Handover:
    return Handover(
        chain_id=desk.lane.chain_id,
        old=desk.sender,
        new=to,
        result=result,
        next_nonce=remains.next,
        reasons=remains.reasons,
        to_do=to_do,
    )
