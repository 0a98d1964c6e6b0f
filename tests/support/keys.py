"""Every kind of key, for the laws that hold for each: opened in this process, or by a replica.

To add a kind: write one async context manager for `OPENERS`, and one context manager for `SIGNERS`.
A kind that this machine cannot have calls `pytest.skip` with the reason.
"""

import json
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from urllib.parse import quote

from eth_keyfile.keyfile import create_keyfile_json
from eth_keys.datatypes import PrivateKey
from eth_utils.address import to_checksum_address

from adapters.contracts import DEPLOYER_ROLE, GRANT_ROLE, REGISTRAR_ROLE
from adapters.embedded import DEV_ACCOUNT, EmbeddedAnvil
from adapters.key_kms import open_kms
from adapters.key_local import LocalKey
from adapters.key_pkcs11 import open_pkcs11
from adapters.signer import Key
from saga.fees import ETHER
from tests.support.chain import Node
from tests.support.hsm import PIN, soft_hsm
from tests.support.kms import AWS_SECRETS, KmsServer, aws_environment
from tests.support.proxy import open_proxy
from tests.support.remote_signer import SECRETS, SIGN, on_any_chain, opened, secret_url

SIGN_SECONDS = 30.0
PASSWORD = "correct horse battery staple"


class Opened(NamedTuple):
    """A key that is open, and the texts that nothing may show."""

    key: Key
    secrets: tuple[str, ...]


OpenKey = Callable[[], AbstractAsyncContextManager[Opened]]


class SignerSettings(NamedTuple):
    """What a replica is told of its signer, the address that it must be, what it may not show."""

    address: str
    environment: dict[str, str]
    secrets: tuple[str, ...]


OpenSigner = Callable[[Path], AbstractContextManager[SignerSettings]]


@asynccontextmanager
async def local_key() -> AsyncIterator[Opened]:
    text = new_key().to_hex()
    yield Opened(LocalKey(text), (text[2:],))


@asynccontextmanager
async def kms_key() -> AsyncIterator[Opened]:
    with KmsServer() as server:
        key_id = server.create_key()
        with aws_environment(server.environment(key_id)):
            key = await open_kms(key_id, timeout=SIGN_SECONDS)
        try:
            assert key.address == server.address(key_id)
            yield Opened(key, AWS_SECRETS)
        finally:
            await key.close()


@asynccontextmanager
async def remote_key() -> AsyncIterator[Opened]:
    with EmbeddedAnvil() as anvil, on_any_chain() as signing:
        async with open_proxy(anvil.url) as proxy:
            proxy.always(SIGN, signing)
            async with opened(secret_url(proxy.url)) as key:
                yield Opened(key, SECRETS)


@asynccontextmanager
async def pkcs11_key() -> AsyncIterator[Opened]:
    with TemporaryDirectory() as folder, soft_hsm(Path(folder)) as hsm:
        hsm.make_token("hokusai")
        made = hsm.make_key("hokusai", "deployer")
        key = await open_pkcs11(
            hsm.module, token="hokusai", label="deployer", pin=PIN, timeout=SIGN_SECONDS
        )
        assert key.address == address_of(made)
        yield Opened(key, (PIN, made.to_hex()[2:]))
        await key.close()


OPENERS: dict[str, OpenKey] = {
    "local": local_key,
    "remote": remote_key,
    "kms": kms_key,
    "pkcs11": pkcs11_key,
}
"""By kind. The key is closed when the block is left, and whatever it needed has ended."""


@contextmanager
def key_file(folder: Path) -> Iterator[SignerSettings]:
    key = new_key()
    path = secret_file(folder / "deployer-key", key.to_hex() + "\n")
    environment = {"DEPLOYER_PRIVATE_KEY_FILE": str(path)}
    yield SignerSettings(address_of(key), environment, (key.to_hex()[2:],))


@contextmanager
def keystore(folder: Path) -> Iterator[SignerSettings]:
    """As `geth account new` writes one, with fewer rounds: a second of scrypt proves nothing."""
    key = new_key()
    content = create_keyfile_json(key.to_bytes(), PASSWORD.encode(), kdf="scrypt", iterations=4096)
    path = secret_file(folder / "keystore.json", json.dumps(content))
    password = secret_file(folder / "keystore-password", PASSWORD + "\n")
    environment = {
        "DEPLOYER_KEYSTORE": str(path),
        "DEPLOYER_KEYSTORE_PASSWORD_FILE": str(password),
    }
    yield SignerSettings(address_of(key), environment, (key.to_hex()[2:], PASSWORD))


@contextmanager
def kms_signer(_folder: Path) -> Iterator[SignerSettings]:
    with KmsServer() as server:
        key_id = server.create_key(alias="alias/deployer")
        yield SignerSettings(server.address(key_id), server.environment(key_id), AWS_SECRETS)


@contextmanager
def remote_signer(_folder: Path) -> Iterator[SignerSettings]:
    """A node of its own, of the same chain id, whose chain is never used: it signs and no more."""
    with EmbeddedAnvil("--mnemonic-random", "12") as anvil:
        address = to_checksum_address(anvil.request("eth_accounts")[1])
        user, password, *_ = SECRETS
        url = anvil.url.replace("://", f"://{user}:{quote(password, safe='')}@")
        environment = {"DEPLOYER_SIGNER_URL": url, "DEPLOYER_ADDRESS": address}
        yield SignerSettings(address, environment, (user, password))
        assert anvil.request("eth_blockNumber") == "0x0"


@contextmanager
def pkcs11_signer(folder: Path) -> Iterator[SignerSettings]:
    home = folder / "softhsm"
    home.mkdir()
    with soft_hsm(home) as hsm:
        hsm.make_token("hokusai")
        key = hsm.make_key("hokusai", "deployer")
        environment = hsm.settings("hokusai", "deployer", secret_file(home / "pin", PIN + "\n"))
        yield SignerSettings(address_of(key), environment, (PIN, key.to_hex()[2:]))


@contextmanager
def private_key(_folder: Path) -> Iterator[SignerSettings]:
    key = new_key()
    yield SignerSettings(
        address_of(key), {"DEPLOYER_PRIVATE_KEY": key.to_hex()}, (key.to_hex()[2:],)
    )


SIGNERS: dict[str, OpenSigner] = {
    "private key": private_key,
    "key file": key_file,
    "keystore": keystore,
    "remote": remote_signer,
    "kms": kms_signer,
    "pkcs11": pkcs11_signer,
}
"""By kind, for whole replicas. Files go to the folder; whatever was started ends with the block."""


def new_key() -> PrivateKey:
    return PrivateKey(secrets.token_bytes(32))


def address_of(key: PrivateKey) -> str:
    return str(key.public_key.to_checksum_address())


def secret_file(path: Path, text: str) -> Path:
    """Readable by nobody else."""
    path.touch(mode=0o600)
    path.write_text(text, "utf-8")
    return path


def fund(node: Node, account: str, ether: int = 1000) -> None:
    node.request("anvil_setBalance", account, hex(ether * ETHER))


def grant_roles(node: Node, account: str) -> None:
    """What a key needs to deploy and to register; mined on return."""
    for contract, role in ((node.registry, REGISTRAR_ROLE), (node.manager, DEPLOYER_ROLE)):
        node.transact(DEV_ACCOUNT, contract, GRANT_ROLE.encode(bytes.fromhex(role[2:]), account))
