"""Changes a token from a process of its own: `python -m tests.support.hsm_tool MODULE TOKEN PIN`.

Reads a list of commands from stdin, as JSON: ["create", attributes], ["pair", label],
["rsa", label], ["destroy", label], ["pin", new one]. Prints the public point, in hex, of what
`pair` makes. Bytes are written as "hex:…".
"""

import json
import sys
from collections.abc import Callable
from typing import Any

import pkcs11
from pkcs11 import Attribute, KeyType, ObjectClass

from adapters.hsm import CURVE_PARAMS

_ENUMS: dict[str, Any] = {"CLASS": ObjectClass, "KEY_TYPE": KeyType}


def main() -> None:
    module, token, pin = sys.argv[1:]
    with pkcs11.lib(module).get_token(token_label=token).open(rw=True, user_pin=pin) as session:
        for command, value in json.load(sys.stdin):
            _DO[command](session, pin, value)


def _create(session: pkcs11.Session, _pin: str, attributes: dict[str, Any]) -> None:
    session.create_object({Attribute[name]: _of(name, text) for name, text in attributes.items()})


def _of(name: str, value: Any) -> Any:
    if name in _ENUMS:
        return _ENUMS[name][value]
    if isinstance(value, str) and value.startswith("hex:"):
        return bytes.fromhex(value[4:])
    return value


def _pair(session: pkcs11.Session, _pin: str, label: str) -> None:
    curve = session.create_domain_parameters(
        KeyType.EC, {Attribute.EC_PARAMS: CURVE_PARAMS}, local=True
    )
    public, _ = curve.generate_keypair(store=True, label=label)
    print(public[Attribute.EC_POINT].hex())


def _rsa(session: pkcs11.Session, _pin: str, label: str) -> None:
    session.generate_keypair(KeyType.RSA, 1024, store=True, label=label)


def _destroy(session: pkcs11.Session, _pin: str, label: str) -> None:
    for found in list(session.get_objects({Attribute.LABEL: label})):
        found.destroy()


def _pin(session: pkcs11.Session, pin: str, new: str) -> None:
    session.set_pin(pin, new)


_DO: dict[str, Callable[[pkcs11.Session, str, Any], None]] = {
    "create": _create,
    "pair": _pair,
    "rsa": _rsa,
    "destroy": _destroy,
    "pin": _pin,
}

if __name__ == "__main__":
    main()
