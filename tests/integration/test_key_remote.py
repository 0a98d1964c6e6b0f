"""Laws of a remote signer: what is asked is what is trusted, and a bad day is one clear line."""

import asyncio
import traceback
from base64 import b64encode
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from eth_keys.constants import SECPK1_N
from eth_keys.datatypes import Signature

from adapters.embedded import DEV_ACCOUNT, DEV_MNEMONIC_KEY, EmbeddedAnvil
from adapters.key_local import LocalKey
from adapters.key_remote import RemoteKey, open_remote
from adapters.signer import Signer
from adapters.signer_line import MAX_REPLY_BYTES, SignerLine
from adapters.transaction import Transaction, decoded
from saga.errors import SignerError
from saga.facts import Call
from saga.fees import GWEI
from tests.support.chain import STRANGER, STRANGER_KEY
from tests.support.proxy import (
    EVERY,
    Exchange,
    Fault,
    Proxy,
    Response,
    another_id,
    answer,
    each_call,
    half_body,
    json_response,
    lost_reply,
    lost_request,
    open_proxy,
    rpc_error,
    silence,
)
from tests.support.remote_signer import (
    ASKED,
    CHAIN_ID,
    LEGACY,
    SECRETS,
    SIGN,
    WAIT_SECONDS,
    opened,
    re_signed,
    result,
    secret_url,
)

EACH = pytest.mark.parametrize("asked", [ASKED, LEGACY])


@pytest.fixture
async def proxy(anvil: EmbeddedAnvil) -> AsyncIterator[Proxy]:
    """A server in front of anvil, whose answers a test may change."""
    async with open_proxy(anvil.url) as proxy:
        yield proxy


async def refused(key: RemoteKey, asked: Transaction = ASKED) -> str:
    """Why it does not sign: one short line, whose traceback shows nothing of the URL."""
    with pytest.raises(SignerError) as caught:
        await key.sign(asked)
    whole = "".join(traceback.format_exception(caught.value))
    assert not [secret for secret in SECRETS if secret in whole]
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 400
    return said


@pytest.mark.parametrize("legacy", [False, True])
async def test_mined(*, legacy: bool) -> None:
    """What a real signer signs is mined as it was asked for, and says so at the key's probe."""
    call = Call(
        to=STRANGER, data="0xdeadbeef", gas=30_000, max_fee=10 * GWEI,
        max_priority_fee=10 * GWEI if legacy else GWEI, predicted=STRANGER, legacy=legacy,
    )  # fmt: skip
    with EmbeddedAnvil() as node:
        async with opened(node.url) as key:
            signer = Signer(key)
            await signer.prove(CHAIN_ID, legacy=legacy)
            attempt = await signer.sign(call, 0, CHAIN_ID)
        assert node.request("eth_sendRawTransaction", attempt.raw) == attempt.hash
        node.request("evm_mine")
        mined = node.request("eth_getTransactionByHash", attempt.hash)
        receipt = node.request("eth_getTransactionReceipt", attempt.hash)
    assert (mined["from"], mined["to"]) == (DEV_ACCOUNT.lower(), STRANGER.lower())
    assert (mined["input"], int(mined["type"], 16)) == ("0xdeadbeef", 0 if legacy else 2)
    assert receipt["status"] == "0x1"


@EACH
@pytest.mark.parametrize("data", [b"", b"\x00", b"\xab" * 20_000])
async def test_as_local(anvil: EmbeddedAnvil, asked: Transaction, data: bytes) -> None:
    """The bytes are those that the key itself would give, the smallest and largest numbers too."""
    edges = [asked._replace(data=data, nonce=nonce) for nonce in (0, 1, 2**64 - 1)]
    async with opened(anvil.url) as key:
        for each in edges:
            assert await key.sign(each) == await LocalKey(DEV_MNEMONIC_KEY).sign(each)


@EACH
async def test_question(proxy: Proxy, asked: Transaction) -> None:
    """All fields are asked for: numbers without leading zeros, addresses with their checksum."""
    seen: list[Any] = []

    async def noted(exchange: Exchange) -> Response:
        seen.append(exchange.calls["params"])
        return json_response(await exchange.forward())

    proxy.once(SIGN, noted)
    async with opened(proxy.url) as key:
        await key.sign(asked)
    prices = {"gasPrice": "0x6fc23ac00"}
    if not asked.fees.legacy:
        prices = {"maxFeePerGas": "0x6fc23ac00", "maxPriorityFeePerGas": "0x3b9aca00"}
    fields = {"from": DEV_ACCOUNT, "to": STRANGER, "gas": "0x186a0", "value": "0x0", "nonce": "0x7"}
    assert seen == [[fields | {"data": "0xdeadbeef", "chainId": "0x7a69"} | prices]]


ACCESS = [{"address": STRANGER, "storageKeys": []}]
OF_EACH: dict[str, dict[str, Any]] = {
    "recipient": {"to": DEV_ACCOUNT},
    "value": {"value": 10**18},
    "chain id": {"chainId": 1},
    "nonce": {"nonce": 8},
    "gas": {"gas": 100_001},
    "data": {"data": "0xdeadbeef00"},
}
OF_TYPE_2: dict[str, dict[str, Any]] = {
    "max fee per gas": {"maxFeePerGas": 31 * GWEI},
    "max priority fee": {"maxPriorityFeePerGas": GWEI + 1},
    "access list": {"accessList": ACCESS},
}
OF_LEGACY: dict[str, dict[str, Any]] = {
    "gas price": {"gasPrice": 31 * GWEI},
    "type": {"type": 1, "accessList": ACCESS},
}


@pytest.mark.parametrize(
    ("asked", "name", "changes"),
    [
        *[(ASKED, *each) for each in (OF_EACH | OF_TYPE_2).items()],
        *[(LEGACY, *each) for each in (OF_EACH | OF_LEGACY).items()],
    ],
)
async def test_changed(
    proxy: Proxy, asked: Transaction, name: str, changes: dict[str, Any]
) -> None:
    """A signer that changes one field gets nothing sent, and the error names the field."""
    proxy.once(SIGN, re_signed(**changes))
    async with opened(secret_url(proxy.url)) as key:
        said = await refused(key, asked)
        assert said.startswith(f"remote signer {proxy.url} changed the {name}: asked ")
        assert said.endswith("; nothing was sent")
        await key.sign(asked)  # a new question is answered on its own merits


@EACH
async def test_other_key(proxy: Proxy, asked: Transaction) -> None:
    """The right transaction, signed by another key, is refused."""
    proxy.once(SIGN, re_signed(STRANGER_KEY))
    async with opened(proxy.url) as key:
        said = await refused(key, asked)
    assert f"changed the sender: asked {DEV_ACCOUNT}, got {STRANGER}; nothing was sent" in said


@EACH
async def test_high_s(proxy: Proxy, asked: Transaction) -> None:
    """A high s is turned into the low one, and the parity with it: the bytes are ours."""
    ours = await LocalKey(DEV_MNEMONIC_KEY).sign(asked)
    parity, r, s = decoded(ours)[1].vrs
    high = asked.signed(Signature(vrs=(1 - parity, r, SECPK1_N - s)))

    async def fault(exchange: Exchange) -> Response:
        return result(exchange, "0x" + high.hex())

    proxy.once(SIGN, fault)
    async with opened(proxy.url) as key:
        assert await key.sign(asked) == ours


def said_no(text: str) -> Fault:
    return rpc_error(SIGN, -32000, text)


async def bomb(exchange: Exchange) -> Response:
    return result(exchange, "0x02" + "c1" * 400_000)


async def no_end(exchange: Exchange) -> Response:
    """An answer that goes on until the client has had enough."""
    response = web.StreamResponse()
    await response.prepare(exchange.request)
    try:
        while True:
            await response.write(b" " * 65_536)
    except ConnectionError:
        return response


async def zipped(exchange: Exchange) -> Response:
    """Packed, though nobody asked for that: a small answer may be a huge one."""
    response = json_response(await exchange.forward())
    assert isinstance(response, web.Response)
    response.enable_compression(web.ContentCoding.gzip)
    return response


async def redirected(exchange: Exchange) -> Response:
    return web.Response(status=307, headers={"Location": "http://127.0.0.1:1/"})


NOT_RPC = f"gave no JSON-RPC answer to {SIGN}"
NO_TRANSACTION = "answered with no signed transaction of type 2"
KEY_SHAPE = "ab" * 32


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (answer(b"", status=401), f"answered {SIGN} with HTTP 401; are user and password"),
        (answer(b"no", status=403), f"answered {SIGN} with HTTP 403; does the signer allow"),
        (answer(b"<html>", status=502), f"answered {SIGN} with HTTP 502"),
        (answer(b'{"id": 1, "result": "0x"}', status=500), f"answered {SIGN} with HTTP 500"),
        (redirected, f"answered {SIGN} with HTTP 307"),
        (answer(b""), NOT_RPC),
        (answer(b"<html>hello</html>"), NOT_RPC),
        (answer(b"\xff\xfe"), NOT_RPC),
        (answer(b"[" * 100_000), NOT_RPC),
        (answer(b'{"id":1,"result":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), NOT_RPC),
        (another_id, NOT_RPC),
        (zipped, NOT_RPC),
        (each_call(lambda _: {"result": None}), NO_TRANSACTION),
        (each_call(lambda _: {"result": {"raw": 7}}), NO_TRANSACTION),
        (each_call(lambda _: {"result": "0xnonsense"}), NO_TRANSACTION),
        (each_call(lambda _: {"result": "0x02" + "c1" * 3000}), NO_TRANSACTION),
        (bomb, "answered with 400001 bytes, where at most"),
        (answer(b" " * (MAX_REPLY_BYTES + 1)), f"answered with more than {MAX_REPLY_BYTES} bytes"),
        (no_end, f"answered with more than {MAX_REPLY_BYTES} bytes"),
        (said_no("Request denied"), f"refused {SIGN}: Request denied (code -32000)"),
        (
            answer(b'{"id":1,"error":{"code":-32602,"message":"Invalid params"}}', status=400),
            f"refused {SIGN}: HTTP 400: Invalid params (code -32602)",
        ),
        (said_no("a\nb\x1b[31m" + "c" * 5000), f"refused {SIGN}: a b [31mcccc"),
        (said_no(f"not {SECRETS}"), f"refused {SIGN}: not ('***', '***', '***', '***') (code"),
        (said_no(f"key {KEY_SHAPE}"), f"refused {SIGN}: key *** (code -32000)"),
        (lost_reply, "does not answer (ServerDisconnectedError)"),
        (lost_request, "does not answer (ServerDisconnectedError)"),
        (half_body, "does not answer (ClientPayloadError)"),
    ],
)
async def test_bad_day(proxy: Proxy, fault: Fault, said: str) -> None:
    """No answer, no signature, or too much: one line with the host alone, and the key goes on."""
    proxy.once(SIGN, fault)
    async with opened(secret_url(proxy.url)) as key:
        assert (await refused(key)).startswith(f"remote signer {proxy.url} {said}")
        assert await key.sign(ASKED) == await LocalKey(DEV_MNEMONIC_KEY).sign(ASKED)


async def test_slow(proxy: Proxy) -> None:
    """A signer that says nothing is given up after the time-out."""
    proxy.once(SIGN, silence)
    key = RemoteKey(SignerLine(secret_url(proxy.url), 0.3), DEV_ACCOUNT, [SIGN])
    said = await refused(key)
    await key.close()
    assert said == f"remote signer {proxy.url} did not answer within SIGNER_TIMEOUT, 0.3 s"


async def test_gone(anvil: EmbeddedAnvil) -> None:
    """A signer that went away is named."""
    async with open_proxy(anvil.url) as proxy:
        key = await open_remote(secret_url(proxy.url), address=DEV_ACCOUNT, timeout=WAIT_SECONDS)
    said = await refused(key)
    await key.close()
    assert said.startswith(f"remote signer {proxy.url} does not answer (")


async def test_other_chain(anvil: EmbeddedAnvil) -> None:
    """A signer of another chain refuses, in its own words."""
    async with opened(anvil.url) as key:
        said = await refused(key, ASKED._replace(chain_id=1))
    assert "chain ID (1) does not match the signer's chain ID (31337) (code -32602)" in said


async def test_credentials(proxy: Proxy) -> None:
    """User and password of the URL go as basic auth, the path and query as they are; none shows."""
    seen: list[tuple[str | None, str]] = []

    async def noted(exchange: Exchange) -> Response:
        seen.append((exchange.request.headers.get("Authorization"), exchange.request.path_qs))
        return json_response(await exchange.forward())

    proxy.always(EVERY, noted)
    async with opened(secret_url(proxy.url)) as key:
        await key.sign(ASKED)
        assert repr(key) == f"RemoteKey({DEV_ACCOUNT} at {proxy.url})"
        assert repr(Signer(key)) == f"Signer(remote signer of {DEV_ACCOUNT})"
    login = b64encode(f"{SECRETS[0]}:{SECRETS[1]}".encode()).decode()
    assert seen == [(f"Basic {login}", f"/v1/{SECRETS[2]}?key={SECRETS[3]}")] * 2
    seen.clear()
    async with opened(proxy.url):
        assert seen == [(None, "/")]


async def test_many_at_once(proxy: Proxy) -> None:
    """Of many questions at once each gets its own answer, though they come in another order."""
    waiting: list[asyncio.Event] = []

    async def reversed_order(exchange: Exchange) -> Response:
        mine = asyncio.Event()
        waiting.append(mine)
        if len(waiting) == 20:
            waiting[-1].set()
        await mine.wait()
        response = json_response(await exchange.forward())
        waiting.remove(mine)
        if waiting:
            waiting[-1].set()
        return response

    proxy.always(SIGN, reversed_order)
    asked = [ASKED._replace(nonce=nonce) for nonce in range(20)]
    async with opened(proxy.url) as key:
        answers = await asyncio.gather(*(key.sign(each) for each in asked))
    local = LocalKey(DEV_MNEMONIC_KEY)
    assert answers == [await local.sign(each) for each in asked]


async def test_one_connection(proxy: Proxy) -> None:
    """Question after question goes over one connection."""
    peers: set[object] = set()

    async def noted(exchange: Exchange) -> Response:
        assert exchange.request.transport is not None
        peers.add(exchange.request.transport.get_extra_info("peername"))
        return json_response(await exchange.forward())

    proxy.always(EVERY, noted)
    async with opened(proxy.url) as key:
        for nonce in range(10):
            await key.sign(ASKED._replace(nonce=nonce))
    assert len(peers) == 1
