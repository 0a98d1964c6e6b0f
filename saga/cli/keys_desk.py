"""What the `saga keys` commands work with: each part alone, as far as it is set and answers."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Literal

import msgspec
from pydantic import AfterValidator, BeforeValidator, SecretStr
from pydantic_settings import BaseSettings

from adapters.accounts import Role, roles_of
from adapters.drain import Drain
from adapters.redis_lane import RedisLane
from adapters.redis_views import RedisViews
from adapters.rpc import RpcError
from adapters.rpc_pool import RpcPool
from saga.checks import check_address, check_confirmations, check_rpc_urls, split_urls
from saga.errors import ChainUnavailableError
from saga.setting import CONFIG, setting

Address = Annotated[str, AfterValidator(check_address)]


class ChainId(BaseSettings):
    """The one setting of the chain that a signature needs."""

    model_config = CONFIG

    CHAIN_ID: int | None = setting(None, "chain that is signed for", "11155111", gt=0)


class NodeSettings(ChainId):
    """How to ask the chain, and for what."""

    WEB3_PROVIDER_URL: Annotated[SecretStr, AfterValidator(check_rpc_urls)] = setting(
        ..., "JSON-RPC endpoints of one chain", "http://localhost:8545"
    )
    MODEL_REGISTRY_ADDRESS: Address | None = setting(
        None, "ModelRegistry contract", "0x5FbDB2315678afecb367f032d93F642f64180aa3"
    )
    TOKEN_MANAGER_ADDRESS: Address | None = setting(
        None, "TokenManager contract", "0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512"
    )
    DEPLOY_STRATEGY: Literal["manager", "create2"] = setting(
        "manager", "with `create2` no key needs DEPLOYER_ROLE", "manager"
    )
    CONFIRMATIONS: Annotated[int | None, BeforeValidator(check_confirmations)] = setting(
        1, "blocks until a transaction counts; or `finalized`", "12"
    )

    def roles(self, address: str) -> list[Role]:
        """What an address must be allowed to, on the contracts that are set."""
        return roles_of(
            address,
            registry=self.MODEL_REGISTRY_ADDRESS,
            manager=self.TOKEN_MANAGER_ADDRESS,
            create2=self.DEPLOY_STRATEGY == "create2",
        )

    @property
    def lacking(self) -> list[str]:
        """A line for each contract whose roles cannot be told."""
        names = ["MODEL_REGISTRY_ADDRESS"]
        names += ["TOKEN_MANAGER_ADDRESS"] if self.DEPLOY_STRATEGY == "manager" else []
        return [
            f"{name} is not set: roles on it are not known"
            for name in names
            if getattr(self, name) is None
        ]


class KeySource(msgspec.Struct, frozen=True, kw_only=True):
    """What the settings of the old key say of it, and of the keys beside it."""

    setting: str
    signing: Sequence[str] | None
    """The addresses of all; None where they are not known without opening the keys."""


class LaneDesk(msgspec.Struct, frozen=True, kw_only=True):
    """The lane of the key that is handed over, and whom to ask about it."""

    rpc: RpcPool
    views: RedisViews
    lane: RedisLane
    settings: NodeSettings
    source: KeySource | None
    """None where the settings are not those of the key."""
    named: bool
    """Whether --from says which key it is."""

    @property
    def sender(self) -> str:
        return self.lane.sender

    @property
    def undo(self) -> str:
        """The command that lifts the lane's mark, as it can be given here."""
        of_it = f" --from {self.sender}" if self.named else ""
        return f"saga keys rotate --to {self.sender}{of_it}"

    def drain(self) -> Drain:
        return Drain(self.rpc, self.lane, self.views, self.settings.CONFIRMATIONS)


@asynccontextmanager
async def open_node(settings: NodeSettings) -> AsyncIterator[tuple[RpcPool, int]]:
    """The nodes and their chain id. Raises ChainUnavailableError when none answers, or all are on
    another chain than CHAIN_ID says."""
    rpc = RpcPool(split_urls(settings.WEB3_PROVIDER_URL), expected_chain=settings.CHAIN_ID)
    try:
        try:
            chain_id = await rpc.check_chain()
        except (ChainUnavailableError, RpcError) as error:
            refused = [each.refused for each in rpc.health() if each.refused is not None]
            why = "; ".join(refused) if refused else f"no node answers ({error})"
            raise ChainUnavailableError(f"WEB3_PROVIDER_URL: {why}") from error
        yield rpc, chain_id
    finally:
        await rpc.close()
