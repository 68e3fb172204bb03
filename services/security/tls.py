"""TLS between the processes of a cluster: one process's certificate, and the credentials that gRPC makes of it.

The files are read again when they change. Connections that are open go on as they are; new ones are made with what is
in the files now.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import structlog
from prometheus_client import CollectorRegistry, Gauge

from services.security.certificate import CA, CERT, KEY, BadTls, Pem, checked
from services.security.files import Unreadable, contents, state_of
from services.security.identity import cluster_violation, server_name

log = structlog.get_logger(__name__)

MAX_FILE_BYTES = 1 << 20
LOOK_S = 1.0  # between two looks at the files


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The files of one process: its certificate with those between it and an authority, its key, the authorities."""

    cert: Path
    key: Path
    ca: Path

    def parts(self) -> tuple[tuple[str, Path], ...]:
        return (CERT, self.cert), (KEY, self.key), (CA, self.ca)


class Tls:
    """The certificate of one process; without files there is none, and nothing is encrypted.

    Files that became unusable change nothing. Any thread may use it.
    """

    def __init__(self, files: TlsFiles | None = None, cluster: str = "", role: str = "") -> None:
        """Raises BadTls."""
        self.cluster = cluster
        self._files, self._role = files, role
        self._lock = threading.Lock()
        self._fault, self._look_at = "", time.monotonic() + LOOK_S
        self._generation, self._expires = 0, 0.0
        self._pem, self._seen = Pem(b"", b"", b""), tuple[object, ...]()
        if files is not None:
            self._seen = _states(files)
            self._pem = _read(files)
            self._expires = checked(self._pem, cluster, role)

    @property
    def given(self) -> bool:
        """Whether there is a certificate. It does not change while the process runs."""
        return self._files is not None

    def show(self, registry: CollectorRegistry) -> None:
        """Adds the end of the certificate to the registry."""
        gauge = Gauge(
            "caracal_tls_certificate_expires_seconds",
            "When this process's certificate expires, in seconds since 1970; 0 without TLS",
            registry=registry,
        )
        gauge.set_function(lambda: self.expires)

    @property
    def expires(self) -> float:
        """When the certificate expires, in seconds since 1970."""
        return self._now()[2]

    @property
    def generation(self) -> int:
        """Rises when the files have changed."""
        return self._now()[1]

    def server(self, on_connection: Callable[[], None]) -> grpc.ServerCredentials:
        """Credentials of one server, which follow the files; whoever connects has to show a certificate.

        `on_connection` is called for each connection, on threads of gRPC, before anything is known of its peer.
        """
        pem, known, _ = self._now()

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            nonlocal known
            on_connection()
            pem, generation, _ = self._now()
            if generation == known:
                return None
            known = generation
            return _configuration(pem)

        fetcher: Any = fetch  # its type leaves out that it may return None
        return grpc.dynamic_ssl_server_credentials(_configuration(pem), fetcher, require_client_authentication=True)

    def channel(self) -> grpc.ChannelCredentials:
        """Credentials of a channel that is opened now."""
        pem, _, _ = self._now()
        return grpc.ssl_channel_credentials(pem.ca, pem.key, pem.cert)

    def server_name(self, role: str) -> str:
        """Whose certificate a process of the role has to show."""
        return server_name(self.cluster, role)

    def _now(self) -> tuple[Pem, int, float]:
        with self._lock:
            if self._files is not None and time.monotonic() >= self._look_at:
                self._look_at = time.monotonic() + LOOK_S
                self._look_again(self._files)
            return self._pem, self._generation, self._expires

    def _look_again(self, files: TlsFiles) -> None:
        try:
            seen = _states(files)
            if seen == self._seen:
                return
            pem = _read(files)
            expires = checked(pem, self.cluster, self._role)
        except BadTls as error:
            fault = f"{dict(files.parts())[error.part]}: {error}"
            if fault != self._fault:
                self._fault = fault
                log.warning("a file of TLS cannot be used; the certificate before stays", reason=fault)
            return
        self._fault, self._seen = "", seen
        if pem != self._pem:
            self._pem, self._expires = pem, expires
            self._generation += 1
            log.info("the certificate has changed", expires=expires)


NO_TLS = Tls()


def tls_violation(files: TlsFiles, cluster: str, role: str) -> tuple[str, str]:
    """Which part is wrong (CERT, KEY, CA; "cluster" for the name), and how; empty when nothing is."""
    if why := cluster_violation(cluster):
        return "cluster", why
    try:
        Tls(files, cluster, role)
    except BadTls as error:
        return error.part, str(error)
    return "", ""


def authorities_violation(file: Path) -> str:
    """What is wrong with a file of authorities, in words; empty when nothing is."""
    try:
        ssl.create_default_context(cafile=str(file))
    except ssl.SSLError:  # an OSError, too
        return "has no certificate in PEM"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return ""


def _configuration(pem: Pem) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pem.key, pem.cert)], pem.ca)


def _states(files: TlsFiles) -> tuple[object, ...]:
    """Raises BadTls."""
    found = []
    for part, file in files.parts():
        try:
            found.append(state_of(file))
        except Unreadable as error:
            raise BadTls(part, str(error)) from None
    return tuple(found)


def _read(files: TlsFiles) -> Pem:
    """Raises BadTls."""
    read: dict[str, bytes] = {}
    for part, file in files.parts():
        try:
            read[part] = contents(file, MAX_FILE_BYTES)
        except Unreadable as error:
            raise BadTls(part, str(error)) from None
    return Pem(**read)
