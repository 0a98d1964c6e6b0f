"""Authorities and certificates of a test's own, and TLS before a server that speaks none.

The Valkey that the tests run is built without TLS: what ends TLS here is Python's, as stunnel's or
a load balancer's would.
"""

import datetime
import ipaddress
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CHUNK = 65536
LOOK_SECONDS = 0.1
_DAY = datetime.timedelta(days=1)
_USES = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]


class Papers(NamedTuple):
    """PEM files of a certificate and its key."""

    cert: Path
    key: Path


class Authority:
    """Issues certificates; its own is at `cert`."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = x509.KeyUsage(
            digital_signature=True,
            key_cert_sign=True,
            crl_sign=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        own = (
            self._unsigned(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.cert = folder / f"{name}.pem"
        self.cert.write_bytes(own.public_bytes(serialization.Encoding.PEM))

    def _unsigned(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _DAY)
            .not_valid_after(now + _DAY)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )

    def issue(self, name: str, *hosts: str) -> Papers:
        """A certificate for these names and addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        found = (
            self._unsigned(subject, key.public_key())
            .add_extension(x509.ExtendedKeyUsage(_USES), critical=False)
            .add_extension(x509.SubjectAlternativeName([_host(h) for h in hosts]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        papers = Papers(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        papers.cert.write_bytes(found.public_bytes(serialization.Encoding.PEM))
        papers.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return papers


def _host(text: str) -> x509.GeneralName:
    with suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(text))
    return x509.DNSName(text)


@contextmanager
def tls_before(port: int, papers: Papers, *, clients_of: Authority | None = None) -> Iterator[int]:
    """A port that speaks TLS, and passes what it is told on to another one of this machine.

    `clients_of`: only those are let in whose certificate is this authority's. In threads: a
    refused handshake must send its alert, which asyncio's servers do not.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(papers.cert, papers.key)
    if clients_of is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients_of.cert)
    over, threads = threading.Event(), []

    def accept() -> None:
        while not over.is_set():
            with suppress(TimeoutError):
                raw, _ = listener.accept()
                raw.settimeout(LOOK_SECONDS * 50)
                threads.append(threading.Thread(target=_serve, args=(raw, context, port, over)))
                threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(LOOK_SECONDS)
        threads.append(threading.Thread(target=accept))
        threads[0].start()
        try:
            yield listener.getsockname()[1]
        finally:
            over.set()
            threads[0].join()
    for thread in threads:
        thread.join()


def _serve(raw: socket.socket, context: ssl.SSLContext, port: int, over: threading.Event) -> None:
    with (
        suppress(OSError),
        raw,
        context.wrap_socket(raw, server_side=True) as before,
        socket.create_connection(("127.0.0.1", port)) as behind,
    ):
        _pass_on(before, behind, over)


def _pass_on(before: ssl.SSLSocket, behind: socket.socket, over: threading.Event) -> None:
    """Until either side ends; then both are closed."""
    while not over.is_set():
        ready, _, _ = select.select([before, behind], [], [], LOOK_SECONDS)
        for source, target in ((before, behind), (behind, before)):
            if source in ready:
                data = source.recv(CHUNK)
                while source is before and before.pending():
                    data += before.recv(CHUNK)
                if not data:
                    return
                target.sendall(data)
