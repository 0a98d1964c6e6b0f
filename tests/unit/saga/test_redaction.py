"""Laws of a kept reason: no secret is in it, it has an end, and it stays as it is."""

import pytest

from saga.redaction import MAX_REASON, for_strangers, kept

KEY = "SECRETKEY0123456789"
URLS = (
    f"https://eth-mainnet.g.alchemy.com/v2/{KEY}",
    f"https://some-name.quiknode.pro/{KEY}/",
    f"wss://user:{KEY}@node.example/ws",
    f"https://node.example?apikey={KEY}",
)


@pytest.mark.parametrize("url", URLS)
def test_no_key(url: str) -> None:
    """No secret: of a URL that a node tells of, the host is kept alone."""
    found = kept(f"upstream {url} refused (tried 3 times)")
    assert KEY not in found
    assert found.startswith("upstream ")
    assert found.endswith(" refused (tried 3 times)")


def test_cut() -> None:
    """No flood: the first and the last of a long text are kept."""
    found = kept("z" * 100_000 + " (tried 3 times)")
    assert len(found) == MAX_REASON
    assert found.startswith("zzz")
    assert found.endswith("zzz (tried 3 times)")
    assert kept("z" * MAX_REASON) == "z" * MAX_REASON


@pytest.mark.parametrize("text", [*URLS, "no", "x" * 5_000, f"{URLS[0]} {'y' * 5_000} {URLS[1]}"])
def test_stays(text: str) -> None:
    """The record is one: what is kept is the same when it is kept again, or told to strangers."""
    found = kept(text)
    assert kept(found) == found
    assert for_strangers(found, MAX_REASON) == found
