"""`saga contracts deploy`: what a development chain needs before the first message."""

import sys
from typing import Annotated, Any

from pydantic import AfterValidator, SecretStr
from pydantic_settings import BaseSettings

from saga.checks import check_private_key, check_rpc_urls, split_urls
from saga.cli.render import print_json
from saga.config import load
from saga.errors import ChainUnavailableError, UsageError
from saga.secret import Secret
from saga.setting import CONFIG, setting

REAL_MONEY = (1, 137)


class ChainSettings(BaseSettings):
    """Node and key; no contract exists yet."""

    model_config = CONFIG

    WEB3_PROVIDER_URL: Annotated[SecretStr, AfterValidator(check_rpc_urls)] = setting(
        ..., "JSON-RPC endpoint of an EVM node", "http://localhost:8545"
    )
    DEPLOYER_PRIVATE_KEY: Annotated[Secret, AfterValidator(check_private_key)] = setting(
        ..., "key that deploys, 64 hex digits", "0x<64 hex digits>"
    )


def deploy_contracts(*, i_know: bool, as_json: bool) -> None:
    """Raises UsageError on a chain with real money, ChainUnavailableError without a node."""
    settings = load(ChainSettings)
    urls = [url for url in split_urls(settings.WEB3_PROVIDER_URL) if url.startswith("http")]
    if not urls:
        raise UsageError("WEB3_PROVIDER_URL: `contracts deploy` needs an http or https endpoint")
    addresses = deploy(
        urls[0],
        settings.DEPLOYER_PRIVATE_KEY.take(),
        i_know=i_know,
    )
    if as_json:
        print_json(addresses)
    else:
        sys.stdout.writelines(f"{name}={address}\n" for name, address in addresses.items())


def deploy(url: str, private_key: str, *, i_know: bool = False) -> dict[str, str]:
    """Deploy registry and manager, grant the key its roles, install the CREATE2 proxy.

    Returns setting name → address. SIDE EFFECTS: up to six transactions of the key.
    """
    from web3 import HTTPProvider, Web3  # noqa: PLC0415 - a second of import time
    from web3.exceptions import Web3Exception  # noqa: PLC0415

    web3 = Web3(HTTPProvider(url, exception_retry_configuration=None))
    try:
        chain_id = web3.eth.chain_id
    except (Web3Exception, OSError, ValueError) as error:
        raise ChainUnavailableError(
            f"WEB3_PROVIDER_URL: no node answers ({type(error).__name__})"
        ) from None
    if chain_id in REAL_MONEY and not i_know:
        raise UsageError(f"chain id {chain_id} is real money; give --i-know to deploy there")
    try:
        return _Deployer(web3, private_key).run()
    except OSError as error:
        raise ChainUnavailableError(
            f"WEB3_PROVIDER_URL: the node went away ({type(error).__name__})"
        ) from None
    except Web3Exception as error:
        raise UsageError(f"the chain refused: {error}") from error


class _Deployer:
    """Sends one transaction after the other and waits for each."""

    def __init__(self, web3: Any, private_key: str) -> None:
        self._web3 = web3
        self._account = web3.eth.account.from_key(private_key)

    def run(self) -> dict[str, str]:
        from adapters.contracts import DEPLOYER_ROLE, REGISTRAR_ROLE  # noqa: PLC0415

        registry = self._create("ModelRegistry")
        manager = self._create("TokenManager")
        self._send(registry.functions.grantRole(REGISTRAR_ROLE, self._account.address))
        self._send(manager.functions.grantRole(DEPLOYER_ROLE, self._account.address))
        self._install_proxy()
        return {
            "MODEL_REGISTRY_ADDRESS": registry.address,
            "TOKEN_MANAGER_ADDRESS": manager.address,
        }

    def _create(self, name: str) -> Any:
        from adapters.contracts import artifact  # noqa: PLC0415

        compiled = artifact(name)
        contract = self._web3.eth.contract(abi=compiled.abi, bytecode=compiled.bytecode)
        receipt = self._send(contract.constructor(self._account.address))
        return self._web3.eth.contract(address=receipt["contractAddress"], abi=compiled.abi)

    def _install_proxy(self) -> None:
        """Where the chain lacks it: pay for, and send, the keyless transaction."""
        from adapters.strategies import (  # noqa: PLC0415
            PROXY,
            PROXY_COST_WEI,
            PROXY_DEPLOYER,
            PROXY_TRANSACTION,
        )

        eth = self._web3.eth
        if len(eth.get_code(PROXY)):
            return
        missing = PROXY_COST_WEI - eth.get_balance(PROXY_DEPLOYER)
        if missing > 0:
            self._transact({"to": PROXY_DEPLOYER, "value": missing, "gas": 21_000})
        eth.wait_for_transaction_receipt(eth.send_raw_transaction(PROXY_TRANSACTION))

    def _send(self, call: Any) -> Any:
        return self._transact(call.build_transaction(self._envelope()))

    def _transact(self, transaction: dict[str, Any]) -> Any:
        eth = self._web3.eth
        if "nonce" not in transaction:
            transaction = {**transaction, **self._envelope(), "chainId": eth.chain_id}
            transaction["maxPriorityFeePerGas"] = eth.max_priority_fee
            base_fee = eth.get_block("latest")["baseFeePerGas"]
            transaction["maxFeePerGas"] = 2 * base_fee + eth.max_priority_fee
        signed = self._account.sign_transaction(transaction)
        receipt = eth.wait_for_transaction_receipt(eth.send_raw_transaction(signed.raw_transaction))
        if receipt["status"] != 1:
            raise UsageError(f"transaction {receipt['transactionHash'].to_0x_hex()} reverted")
        return receipt

    def _envelope(self) -> dict[str, Any]:
        address = self._account.address
        nonce = self._web3.eth.get_transaction_count(address, "pending")
        return {"from": address, "nonce": nonce}
