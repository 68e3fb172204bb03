"""Certificates of a cluster in a folder of the test, and who uses them."""

from __future__ import annotations

import datetime
from pathlib import Path

from services.certificates.authority import VALID, Authority
from services.security.tls import Tls, TlsFiles

CLUSTER = "caracal"


class Certificates:
    """One authority and the files of its certificates."""

    def __init__(self, folder: Path, *believed: bytes) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.renew_authority(*believed)

    def renew_authority(self, *believed: bytes) -> None:
        """A new authority; its certificate, and those `believed` besides, go to ca.crt."""
        self._authority = Authority.made("Caracal, of a test")
        self.write("ca.crt", self._authority.certificate + b"".join(believed))

    @property
    def authority(self) -> bytes:
        return self._authority.certificate

    def issue(self, role: str, cluster: str = CLUSTER, valid: datetime.timedelta = VALID, name: str = "") -> TlsFiles:
        """Writes a certificate and its key, over those before, as `name` (the role if empty)."""
        cert_file, key_file = (self.folder / f"{name or role}.{kind}" for kind in ("crt", "key"))
        cert, key = self._authority.issue(cluster, role, valid)
        self.write(key_file.name, key)
        self.write(cert_file.name, cert)
        return TlsFiles(cert_file, key_file, self.folder / "ca.crt")

    def tls(self, role: str, cluster: str = CLUSTER) -> Tls:
        """The TLS of a process with a new certificate."""
        return Tls(self.issue(role, cluster, name=f"{cluster}-{role}"), cluster, role)

    def write(self, name: str, data: bytes) -> None:
        """Replaces a file as Kubernetes does, at once."""
        draft = self.folder / f".{name}"
        draft.write_bytes(data)
        draft.replace(self.folder / name)
