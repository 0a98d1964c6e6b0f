"""Laws of an HSM's key without an HSM."""

import sys
from pathlib import Path

import pytest

from adapters.key_pkcs11 import open_pkcs11


async def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where python-pkcs11 is missing, the text says what to install."""
    for name in ("adapters.hsm", "adapters.hsm_errors", "adapters.hsm_library"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "pkcs11", None)
    with pytest.raises(ValueError, match=r"^needs the extra \[hsm\]: pip install ") as caught:
        await open_pkcs11(Path("any.so"), token="t", label="k", pin="1234", timeout=1)
    assert str(caught.value).endswith("'contract-deploy-listener[hsm]'")
