"""Laws of opening a remote signer: it is asked in its own way, and a bad one refuses the start."""

import asyncio
import json
import traceback
from collections.abc import AsyncIterator
from typing import Any

import pytest

from adapters.embedded import DEV_ACCOUNT, DEV_MNEMONIC_KEY, EmbeddedAnvil, free_port
from adapters.key_local import LocalKey
from adapters.key_remote import RemoteKey, open_remote
from adapters.signer_line import MAX_REPLY_BYTES, SignerLine
from adapters.transaction import Transaction
from saga.errors import SignerError
from tests.support.proxy import (
    EVERY,
    Exchange,
    Fault,
    Proxy,
    Response,
    answer,
    each_call,
    json_response,
    lost_request,
    open_proxy,
    rpc_error,
    silence,
)
from tests.support.remote_signer import (
    ASKED,
    LEGACY,
    SECRETS,
    SIGN,
    WAIT_SECONDS,
    opened,
    result,
    secret_url,
)

EACH = pytest.mark.parametrize("asked", [ASKED, LEGACY])


@pytest.fixture
async def proxy(anvil: EmbeddedAnvil) -> AsyncIterator[Proxy]:
    """A server in front of anvil, whose answers a test may change."""
    async with open_proxy(anvil.url) as proxy:
        yield proxy


def clef(accounts: object) -> Fault:
    """As Clef: nothing in the namespace `eth`; signed transactions as objects."""

    async def fault(exchange: Exchange) -> Response:
        call = exchange.calls
        if call["method"] == "account_list":
            return result(exchange, accounts)
        if call["method"] == "account_signTransaction":
            raw = await exchange.ask(SIGN, *call["params"])
            return result(exchange, {"raw": raw, "tx": {"nonce": "0xbad"}})
        missing = {"code": -32601, "message": f"the method {call['method']} does not exist"}
        reply = {"jsonrpc": "2.0", "id": call["id"], "error": missing}
        return json_response(json.dumps(reply).encode())

    return fault


@EACH
@pytest.mark.parametrize("accounts", [[DEV_ACCOUNT], [{"address": DEV_ACCOUNT.lower()}], []])
async def test_clef(proxy: Proxy, asked: Transaction, accounts: list[Any]) -> None:
    """Clef is found by what it knows, and from then on asked in its own way alone."""
    proxy.always(EVERY, clef(accounts))
    pin = None if accounts else DEV_ACCOUNT
    key = await open_remote(proxy.url, address=pin, timeout=WAIT_SECONDS)
    assert key.address == DEV_ACCOUNT
    assert await key.sign(asked) == await LocalKey(DEV_MNEMONIC_KEY).sign(asked)
    await key.sign(asked)
    await key.close()
    assert proxy.received == ["eth_accounts", "account_list", *["account_signTransaction"] * 2]


async def test_unlisted_clef(proxy: Proxy) -> None:
    """Of a Clef that lists nothing at all, the first signature finds out how it signs."""
    proxy.always(EVERY, clef([DEV_ACCOUNT]))
    proxy.once("account_list", rpc_error("account_list", -32000, "Request denied"))
    async with opened(proxy.url) as key:
        await asyncio.gather(key.sign(ASKED), key.sign(LEGACY))
        proxy.received.clear()
        await key.sign(ASKED)
    assert proxy.received == ["account_signTransaction"]


def listed(*accounts: object) -> Fault:
    return each_call(lambda _: {"result": [*accounts]})


async def test_only_account(proxy: Proxy) -> None:
    """Without a pin, the only account of the signer is the key; its checksum is ours."""
    proxy.once("eth_accounts", listed(DEV_ACCOUNT.lower(), DEV_ACCOUNT))
    key = await open_remote(proxy.url, address=None, timeout=WAIT_SECONDS)
    await key.close()
    assert (key.address, key.kind) == (DEV_ACCOUNT, "remote signer")


REFUSES = {"error": {"code": -32000, "message": "Request denied"}}


@pytest.mark.parametrize("fault", [listed(), each_call(lambda _: REFUSES), listed(DEV_ACCOUNT)])
async def test_pinned(proxy: Proxy, fault: Fault) -> None:
    """A pin is taken where the signer lists it, or nothing; the first signature shows."""
    proxy.always("eth_accounts", fault)
    proxy.always("account_list", fault)
    async with opened(proxy.url) as key:
        assert key.address == DEV_ACCOUNT
        await key.sign(ASKED)


async def test_foreign_account(anvil: EmbeddedAnvil) -> None:
    """The first signature for an account that the signer has no key of says so."""
    line = SignerLine(anvil.url, WAIT_SECONDS)
    key = RemoteKey(line, "0x1111111111111111111111111111111111111111", [SIGN])
    with pytest.raises(SignerError, match="refused eth_signTransaction: No Signer available"):
        await key.sign(ASKED)
    await key.close()


OTHERS = [f"0x{each:040d}" for each in range(4)]
NO_LIST = "gave no list of accounts to eth_accounts"
NO_ACCOUNT = (
    "lists no account: give it a key, or set DEPLOYER_ADDRESS if it lists none of those it has"
)
SET = "set DEPLOYER_ADDRESS to the account to use"


@pytest.mark.parametrize(
    ("fault", "pin", "said"),
    [
        (
            listed(*OTHERS),
            None,
            f"has 4 accounts ({', '.join(OTHERS[:3])}, …); set DEPLOYER_ADDRESS to the one to use",
        ),
        (
            listed(*OTHERS[:2]),
            None,
            f"has 2 accounts ({', '.join(OTHERS[:2])}); set DEPLOYER_ADDRESS to the one to use",
        ),
        (
            listed(OTHERS[1]),
            DEV_ACCOUNT,
            f"has no key of DEPLOYER_ADDRESS {DEV_ACCOUNT}, but of {OTHERS[1]}",
        ),
        (
            listed(),
            None,
            NO_ACCOUNT,
        ),
        (
            each_call(lambda _: REFUSES),
            None,
            f"refused account_list: Request denied (code -32000); {SET}",
        ),
        (each_call(lambda _: {"result": "0x"}), None, NO_LIST),
        (each_call(lambda _: {"result": {}}), DEV_ACCOUNT, NO_LIST),
        (listed("0x12"), None, NO_LIST),
        (listed(7), DEV_ACCOUNT, NO_LIST),
        (listed({"url": "keystore"}), None, NO_LIST),
        (answer(b"hello"), None, "gave no JSON-RPC answer to eth_accounts"),
        (answer(b"hello"), DEV_ACCOUNT, "gave no JSON-RPC answer to eth_accounts"),
        (
            answer(b"", status=401),
            DEV_ACCOUNT,
            "answered eth_accounts with HTTP 401; are user and password before its host right?",
        ),
        (
            answer(b'{"error":{"code":-1,"message":"who?"}}', status=401),
            DEV_ACCOUNT,
            "refused eth_accounts: HTTP 401: who? (code -1)",
        ),
        (
            answer(b"", status=404),
            None,
            "answered eth_accounts with HTTP 404; is its path right?",
        ),
        (silence, None, "did not answer within SIGNER_TIMEOUT, 0.3 s"),
        (silence, DEV_ACCOUNT, "did not answer within SIGNER_TIMEOUT, 0.3 s"),
        (lost_request, None, "does not answer (ServerDisconnectedError)"),
        (
            answer(b" " * (MAX_REPLY_BYTES + 1)),
            None,
            f"answered with more than {MAX_REPLY_BYTES} bytes",
        ),
    ],
)
async def test_not_opened(proxy: Proxy, fault: Fault, pin: str | None, said: str) -> None:
    """A signer that cannot be used refuses the start in one line, without a secret of the URL."""
    proxy.always(EVERY, fault)
    seconds = 0.3 if fault is silence else WAIT_SECONDS
    with pytest.raises(ValueError, match="http") as caught:
        await open_remote(secret_url(proxy.url), address=pin, timeout=seconds)
    assert str(caught.value) == f"{proxy.url} {said}"
    whole = "".join(traceback.format_exception(caught.value))
    assert not [secret for secret in SECRETS if secret in whole]


async def test_unreachable() -> None:
    """So does one where nobody listens."""
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ValueError, match="http") as caught:
        await open_remote(secret_url(url), address=None, timeout=WAIT_SECONDS)
    assert str(caught.value) == f"{url} does not answer (ClientConnectorError)"


async def test_no_url() -> None:
    """What is no URL is not quoted."""
    with pytest.raises(ValueError, match=r"^is no URL$"):
        await open_remote("http://tom:s3cret@[::1", address=None, timeout=WAIT_SECONDS)
