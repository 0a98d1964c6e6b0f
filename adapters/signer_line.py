"""JSON-RPC over HTTP to a remote signer.

Stricter than the lines to nodes in `adapters.rpc`: no redirect is followed, for it would carry the
credentials and the question elsewhere; nothing is unpacked; answers are small.
"""

import base64
import itertools
import re
from http import HTTPStatus
from typing import Any

import aiohttp
import msgspec
from yarl import URL

from adapters.rpc import Reply, envelope, host_of
from saga.redaction import MASK, redact

MAX_REPLY_BYTES = 1024 * 1024
"""geth's pool takes transactions of 128 KiB (`txMaxSize`): twice that in hex digits, and Clef sends
them twice."""
IDLE_SECONDS = 15.0
"""Web3Signer ends idle connections after 30 s (`--idle-connection-timeout-seconds`): we do before,
so that no question meets a closing one."""
MAX_BRACKETS = 10_000
"""Of objects and arrays in an answer. msgspec recurses on the C stack as deep as Python's limit
allows, and that is 100,000 once `py_ecc` (of eth_keyfile) was imported: 40 KB of `[` then end the
process (msgspec #1033, closed as not planned)."""
MAX_SAID = 200
"""Characters that are shown of what the signer says."""
METHOD_NOT_FOUND = -32601
"""The JSON-RPC 2.0 specification, section 5.1."""

_MAX_READ = 4096  # of an error's text, characters: more is not looked at
_LEAST_SECRET = 6  # shorter parts of a path, such as `v1`, are none
_KEY_SHAPE = re.compile(r"[0-9a-fA-F]{64,}")
_HINTS: dict[int, str] = {
    HTTPStatus.UNAUTHORIZED: "; are user and password before its host right?",
    HTTPStatus.FORBIDDEN: "; does the signer allow this client?",
    HTTPStatus.NOT_FOUND: "; is its path right?",
}
_decoder = msgspec.json.Decoder(Reply)


class SignerLineError(Exception):
    """What went wrong, as it follows the signer's name. Holds no secret.

    `code` is that of JSON-RPC, where the signer itself refused; None: there was no such answer.
    """

    def __init__(self, text: str, *, code: int | None = None) -> None:
        super().__init__(text)
        self.code = code


class SignerLine:
    """One session, whose connections are used again. Create it inside the event loop."""

    def __init__(self, url: str, timeout: float) -> None:
        """`timeout` is for each question, seconds. Raises ValueError when the URL is none."""
        try:
            whole = URL(url)
            self.host = host_of(url)
        except ValueError:
            raise ValueError("is no URL") from None  # its text quotes the URL
        self._url = whole.with_user(None)
        self._timeout = timeout
        self._ids = itertools.count(1)
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        parts = [*whole.path.split("/"), *whole.raw_path.split("/")]
        self._secrets = [part for part in parts if len(part) >= _LEAST_SECRET]
        self._secrets += [*whole.query.values(), whole.query_string, whole.raw_query_string]
        words = whole.raw_query_string.replace("&", "=").split("=")
        self._secrets += [word for word in words if len(word) >= _LEAST_SECRET]
        if whole.user is not None:
            login = f"{whole.user}:{whole.password or ''}"
            coded = base64.b64encode(login.encode()).decode()
            headers["Authorization"] = f"Basic {coded}"
            self._secrets += [whole.user, whole.password or "", coded]
            self._secrets += [whole.raw_user or "", whole.raw_password or ""]
        self._secrets = sorted(filter(None, self._secrets), key=len, reverse=True)
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=timeout),
            connector=aiohttp.TCPConnector(keepalive_timeout=IDLE_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=headers,
            auto_decompress=False,
        )

    def __repr__(self) -> str:
        return f"SignerLine({self.host})"

    async def ask(self, method: str, *params: Any) -> Any:
        """The result. Raises SignerLineError."""
        request_id = next(self._ids)
        status, body = await self._post(envelope(request_id, (method, [*params])))
        reply = _decoded(body)
        if reply.error is not None:
            self._refuse(method, status, reply.error.code, reply.error.message)
        if status != HTTPStatus.OK:
            raise SignerLineError(f"answered {method} with HTTP {_named(status)}")
        if reply.id != request_id:
            raise SignerLineError(f"gave no JSON-RPC answer to {method}")
        return reply.result

    def _refuse(self, method: str, status: int, code: int, message: str) -> None:
        """Raises what a JSON-RPC error means. Web3Signer sends its own with HTTP 400 and 500."""
        http = "" if status == HTTPStatus.OK else f"HTTP {status}: "
        ours = status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
        text = f"refused {method}: {http}{self._cleaned(message)} (code {code})"
        raise SignerLineError(text, code=None if ours else code)

    async def _post(self, payload: object) -> tuple[int, bytes]:
        try:
            async with self._session.post(
                self._url, data=msgspec.json.encode(payload), allow_redirects=False
            ) as reply:
                body = bytearray()
                async for chunk in reply.content.iter_any():
                    body += chunk
                    if len(body) > MAX_REPLY_BYTES:
                        raise SignerLineError(f"answered with more than {MAX_REPLY_BYTES} bytes")
                return reply.status, bytes(body)
        except TimeoutError:
            text = f"did not answer within SIGNER_TIMEOUT, {self._timeout:g} s"
            raise SignerLineError(text) from None
        except (aiohttp.ClientError, OSError, UnicodeError) as error:
            # The text of some of these holds the URL, and so a credential: the type must do.
            raise SignerLineError(f"does not answer ({type(error).__name__})") from None

    def _cleaned(self, said: str) -> str:
        """The signer's own words: one short line, without what of the URL or of a key is in it."""
        said = said[:_MAX_READ]
        for secret in self._secrets:
            said = said.replace(secret, MASK)
        said = _KEY_SHAPE.sub(MASK, redact(said))
        said = "".join(each if each.isprintable() else " " for each in said)
        return said if len(said) <= MAX_SAID else f"{said[:MAX_SAID]}…"

    async def close(self) -> None:
        await self._session.close()


def _decoded(body: bytes) -> Reply:
    """An empty reply where the answer is none of JSON-RPC."""
    if body.count(b"[") + body.count(b"{") > MAX_BRACKETS:
        return Reply()
    try:
        return _decoder.decode(body)
    except (ValueError, RecursionError):
        return Reply()


def _named(status: int) -> str:
    return f"{status}{_HINTS.get(status, '')}"
