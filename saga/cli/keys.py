"""`saga keys show`: each key, what it has and may do, and what former keys have left out."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec

from adapters.accounts import look_at
from adapters.former_keys import out_of
from adapters.log_setup import configure_logging
from adapters.redis_lane import RedisLane
from adapters.redis_lanes import ABANDON, RedisLanes
from adapters.rpc_pool import RpcPool
from saga.cli.keys_desk import ChainId, NodeSettings, open_node
from saga.cli.keys_report import FormerLane, KeyLane, KeysStatus, KeyStatus, print_keys
from saga.cli.render import print_json
from saga.config import StoreSettings, load
from saga.errors import ChainUnavailableError, ConfigError, StoreUnavailableError
from saga.fees import ether
from saga.signer_settings import SignerSettings
from saga.signers import open_signers, pin_problems
from saga.store import open_store, redis_keys

SHOWN = 64
"""Nonces of a former key whose sagas are looked up."""


def show_keys(*, as_json: bool) -> bool:
    """Returns whether all could be told. Raises ConfigError when the settings name no key."""
    settings = load(SignerSettings)
    configure_logging("ERROR", "json")
    status = asyncio.run(_Show(settings).status())
    if as_json:
        print_json(status)
    else:
        print_keys(status)
    return not status.problems


class _Show:
    """Asks signer, node and Redis one after the other; what fails is a line, and no more."""

    def __init__(self, settings: SignerSettings) -> None:
        self._settings = settings
        self._problems: list[str] = []

    async def status(self) -> KeysStatus:
        keys = await self._keys()
        chain_id: int | None = None
        former: list[FormerLane] = []
        async with self._node() as node, self._lanes() as lanes:
            rpc = None
            if node is not None:
                rpc, chain_id, settings = node
                keys = await self._on_chain(rpc, settings, keys)
            else:
                chain_id = _chain_id_set()
            if lanes is not None:
                keys, former = await self._in_redis(lanes, rpc, chain_id, keys)
        problems = list(dict.fromkeys(self._problems))
        return KeysStatus(chain_id=chain_id, keys=keys, former=former, problems=problems)

    async def _keys(self) -> list[KeyStatus]:
        """Where a key cannot be opened, its pin is known at least; where the pin is another's, the
        key is shown all the same."""
        source, pinned = self._settings.source, self._settings.pinned
        opened = self._settings
        if source != "DEPLOYER_SIGNER_URL":  # where the pin chooses the account
            opened = opened.model_copy(update={"DEPLOYER_ADDRESS": None})
        try:
            async with open_signers(opened) as signers:
                found = [(signer.address, signer.kind) for signer in signers]
            wrong = pin_problems(self._settings, [address for address, _ in found])
            self._problems += wrong
            pin = "wrong" if wrong else "ok" if pinned else "none"
        except ConfigError as error:
            self._problems += error.problems
            found, pin = [(address, "not opened") for address in pinned], "not checked"
        except ChainUnavailableError as error:
            self._problems.append(f"{source}: {error}")
            found, pin = [(address, "not opened") for address in pinned], "not checked"
        return [
            KeyStatus(address=address, kind=kind, setting=source, pin=pin)
            for address, kind in found
        ]

    @asynccontextmanager
    async def _node(self) -> AsyncIterator[tuple[RpcPool, int, NodeSettings] | None]:
        async with AsyncExitStack() as stack:
            found = None
            try:
                settings = load(NodeSettings)
                self._problems += settings.lacking
                rpc, chain_id = await stack.enter_async_context(open_node(settings))
                found = rpc, chain_id, settings
            except ConfigError as error:
                self._problems += error.problems
            except ChainUnavailableError as error:
                self._problems.append(str(error))
            yield found

    @asynccontextmanager
    async def _lanes(self) -> AsyncIterator[RedisLanes | None]:
        async with AsyncExitStack() as stack:
            found = None
            try:
                settings = load(StoreSettings)
                views, _ = await stack.enter_async_context(open_store(settings))
                found = RedisLanes(views.client, redis_keys(settings))
            except ConfigError as error:
                self._problems += error.problems
            yield found

    async def _on_chain(
        self, rpc: RpcPool, settings: NodeSettings, keys: list[KeyStatus]
    ) -> list[KeyStatus]:
        try:
            accounts = [
                await look_at(rpc, key.address, settings.roles(key.address)) for key in keys
            ]
        except ChainUnavailableError as error:
            self._problems.append(f"WEB3_PROVIDER_URL: {error}")
            return keys
        for role in (role for account in accounts for role in account.roles):
            if role.held is None:
                problem = f"{role.name} of {role.address}: {role.contract} does not tell"
                self._problems.append(problem)
        return [
            msgspec.structs.replace(
                key,
                balance_ether=ether(account.balance),
                nonce_latest=account.spent,
                nonce_pending=account.pending,
                roles={role.name: role.held for role in account.roles},
            )
            for key, account in zip(keys, accounts, strict=True)
        ]

    async def _in_redis(
        self,
        lanes: RedisLanes,
        rpc: RpcPool | None,
        chain_id: int | None,
        keys: list[KeyStatus],
    ) -> tuple[list[KeyStatus], list[FormerLane]]:
        """The lanes of our keys on every chain, and those of other keys on this one."""
        ours: dict[str, list[KeyLane]] = {key.address: [] for key in keys}
        former: list[FormerLane] = []
        try:
            for lane in await lanes.all():
                if lane.sender in ours:
                    ours[lane.sender].append(await _lane(lane))
                elif chain_id in (None, lane.chain_id):
                    former.append(await self._former(lane, rpc))
        except StoreUnavailableError as error:
            self._problems.append(str(error))
            return keys, []
        return [msgspec.structs.replace(key, lanes=ours[key.address]) for key in keys], former

    async def _former(self, lane: RedisLane, rpc: RpcPool | None) -> FormerLane:
        standing = await lane.standing()
        spent = await self._spent(lane, rpc)
        out = None if spent is None else out_of(standing, spent)
        records = await lane.read(out[:SHOWN]) if out else []
        return FormerLane(
            address=lane.sender,
            chain_id=lane.chain_id,
            next_nonce=standing.next,
            spent_nonces=spent,
            out=None if out is None else len(out),
            sagas=list(dict.fromkeys(each.saga_id for each in records if each.saga_id)),
            retired=standing.retired or None,
            abandoned=standing.retired_by == ABANDON,
        )

    async def _spent(self, lane: RedisLane, rpc: RpcPool | None) -> int | None:
        if rpc is None:
            return None
        try:
            return (await look_at(rpc, lane.sender, [])).spent
        except ChainUnavailableError as error:
            self._problems.append(f"WEB3_PROVIDER_URL: {error}")
            return None


async def _lane(lane: RedisLane) -> KeyLane:
    standing = await lane.standing()
    return KeyLane(
        chain_id=lane.chain_id,
        next_nonce=standing.next,
        retired=standing.retired or None,
        abandoned=standing.retired_by == ABANDON,
    )


def _chain_id_set() -> int | None:
    try:
        return load(ChainId).CHAIN_ID
    except ConfigError:
        return None  # said already, with the node's settings
