"""What a setting must look like. Each check says what is wrong, and never quotes a secret."""

import re
from typing import TypeVar
from urllib.parse import urlsplit

from eth_utils.address import is_checksum_address, to_checksum_address
from pydantic import SecretStr

from saga.secret import Secret

T = TypeVar("T")
MAX_CONFIRMATIONS = 1000
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
_KEY = re.compile(r"(0x)?[0-9a-fA-F]{64}")


def check_address(value: str) -> str:
    """EIP-55: one case throughout carries no checksum, mixed case must be a right one."""
    mixed = value[2:] not in (value[2:].lower(), value[2:].upper())
    if not _ADDRESS.fullmatch(value) or (mixed and not is_checksum_address(value)):
        raise ValueError("is no address: 0x and 40 hex digits, with a right checksum if mixed-case")
    return str(to_checksum_address(value))


def split_urls(value: SecretStr) -> list[str]:
    """The endpoints of a comma-separated list."""
    return [url.strip() for url in value.get_secret_value().split(",")]


def check_rpc_urls(value: SecretStr) -> SecretStr:
    """Never quotes one: paths and users of such URLs are keys."""
    urls = split_urls(value)
    for position, url in enumerate(urls, 1):
        which = "" if len(urls) == 1 else f"endpoint {position} of {len(urls)}: "
        if not url.startswith(("http://", "https://", "ws://", "wss://")):
            raise ValueError(f"{which}must begin with http://, https://, ws:// or wss://")
        if not _has_host(url):
            raise ValueError(f"{which}has no host, or no port that is a number")
    if len(set(urls)) < len(urls):
        raise ValueError("names the same endpoint twice")
    return value


def _has_host(url: str) -> bool:
    """And a port that is a number, or none."""
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def check_http_url(value: SecretStr | None) -> SecretStr | None:
    """Never quotes it: its user, path or query may be a credential. Commas are part of it."""
    if value is None:
        return None
    url = value.get_secret_value()
    if not url.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://")
    if not _has_host(url):
        raise ValueError("has no host, or no port that is a number")
    return value


def check_json_path(value: str) -> str:
    """Names and list positions with dots between them; empty: none."""
    if value and not all(value.split(".")):
        raise ValueError("has nothing before, after or between dots")
    return value


def check_confirmations(value: object) -> int | None:
    """A number of blocks, or None for the chain's `finalized` block."""
    if value == "finalized":
        return None
    text = str(value).strip()
    if not text.isdecimal() or not 1 <= int(text) <= MAX_CONFIRMATIONS:
        raise ValueError(f"must be 1 to {MAX_CONFIRMATIONS}, or finalized")
    return int(text)


def check_private_key(value: Secret | None) -> Secret | None:
    if value is not None and not _KEY.fullmatch(value.peek()):
        raise ValueError("must be 64 hex digits, with or without 0x")
    return value


def check_no_key(value: T) -> T:
    """What says where a key is must not be one: it is quoted where it is wrong."""
    if value is not None and _KEY.fullmatch(str(value)):
        raise ValueError("looks like a private key: give what names it, and take this key for lost")
    return value


def check_addresses(value: str | None) -> str | None:
    """One address, or several with commas between them."""
    if value is None:
        return None
    checked = [check_address(each.strip()) for each in value.split(",")]
    if len(set(checked)) < len(checked):
        raise ValueError("names the same address twice")
    return ",".join(checked)
