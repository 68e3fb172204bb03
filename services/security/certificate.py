"""Checks a certificate, its key and the certificates of the authorities that it needs: by a TLS handshake with itself.

So everything is checked that a peer will check (signatures, dates, uses), on the bytes that gRPC gets.
"""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from services.security.identity import server_name, uri

CERT, KEY, CA = "cert", "key", "ca"


class BadTls(ValueError):
    """A file that cannot be used; `part` is CERT, KEY or CA."""

    def __init__(self, part: str, why: str) -> None:
        super().__init__(why)
        self.part = part


@dataclass(frozen=True, slots=True)
class Pem:
    """What the three files hold, in PEM: a chain that begins with the process's own certificate, its key, and the
    authorities whose certificates are believed."""

    cert: bytes
    key: bytes
    ca: bytes


def checked(pem: Pem, cluster: str, role: str) -> float:
    """Returns the time (in seconds since 1970) at which the certificate expires. Raises BadTls."""
    _check_authorities(pem.ca)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=_text(pem.cert))
    except (ssl.SSLError, ValueError):
        raise BadTls(CERT, "there is no certificate in PEM in it") from None
    with _as_files(pem.cert, pem.key) as (cert, key):
        server, client = _context(ssl.PROTOCOL_TLS_SERVER, pem.ca), _context(ssl.PROTOCOL_TLS_CLIENT, pem.ca)
        try:
            for context in (server, client):
                context.load_cert_chain(cert, key, password=lambda: "")  # it would ask for one at the terminal
        except (ssl.SSLError, ValueError) as error:
            if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
                raise BadTls(KEY, "it is not the key of the certificate") from None
            raise BadTls(KEY, "there is no private key in PEM, without a password, in it") from None
    shown = _handshake(server, client)
    names = [value for _, value in shown.get("subjectAltName", ())]
    for name in (uri(cluster, role), server_name(cluster, role)):
        if name not in names:
            raise BadTls(CERT, f"it is not for the name {name}, which the role {role} of cluster {cluster} has")
    return float(ssl.cert_time_to_seconds(shown["notAfter"]))


def _check_authorities(ca: bytes) -> None:
    try:
        known = _context(ssl.PROTOCOL_TLS_CLIENT, ca).get_ca_certs()
    except (ssl.SSLError, ValueError):
        known = []
    if not known:
        raise BadTls(CA, "there is no certificate of an authority in PEM in it")
    if all(ssl.cert_time_to_seconds(one["notAfter"]) < time.time() for one in known):  # type: ignore[arg-type]
        raise BadTls(CA, "every certificate in it has expired")


def _context(protocol: ssl._SSLMethod, ca: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.check_hostname = False  # `checked` looks at the names, of which one is a URI
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=_text(ca))
    return context


def _text(pem: bytes) -> str:
    """PEM as `ssl` takes it: bundles have comments around certificates, in any encoding."""
    return pem.decode("ascii", errors="ignore")


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> dict[str, Any]:
    """What the client sees of the server's certificate. Raises BadTls."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [client.wrap_bio(down, up), server.wrap_bio(up, down, server_side=True)]
    left = list(sides)
    try:
        for _ in range(20):
            for side in tuple(left):
                try:
                    side.do_handshake()
                    left.remove(side)
                except ssl.SSLWantReadError:
                    continue
    except ssl.SSLCertVerificationError as error:
        raise BadTls(CERT, error.verify_message) from None
    except ssl.SSLError as error:
        raise BadTls(CERT, str(error.reason or error)) from None
    return dict(sides[0].getpeercert() or {})


@contextmanager
def _as_files(*contents: bytes) -> Iterator[list[str]]:
    """Paths of files in memory: `ssl` reads keys from files only, and those given may change meanwhile."""
    opened: list[int] = []
    try:
        for content in contents:
            opened.append(os.memfd_create("pem"))
            os.write(opened[-1], content)
        yield [f"/proc/self/fd/{one}" for one in opened]
    finally:
        for one in opened:
            os.close(one)
