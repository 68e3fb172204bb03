"""A throw-away certificate authority and a certificate for each role, for a cluster on this machine.

The authority's key is never written: once the certificates are made nobody can make another.
"""

from __future__ import annotations

import datetime
import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from services.security.identity import ROLES, server_name, uri

VALID = datetime.timedelta(days=3650)  # nobody renews them, and they go when the cluster does
EARLIER = datetime.timedelta(hours=1)  # for clocks that differ
PEM = serialization.Encoding.PEM


class Authority:
    """A new authority."""

    def __init__(self, name: str = "Caracal, throw-away") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        usage = x509.BasicConstraints(ca=True, path_length=0)
        self._certificate = self._begin(self._name, self._key, VALID).add_extension(usage, critical=True)

    @property
    def certificate(self) -> bytes:
        """Its own certificate, in PEM."""
        return self._certificate.sign(self._key, hashes.SHA256()).public_bytes(PEM)

    def issue(self, cluster: str, role: str, valid: datetime.timedelta = VALID) -> tuple[bytes, bytes]:
        """A certificate for a role, valid for so long from now on, and its key, in PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.UniformResourceIdentifier(uri(cluster, role)), x509.DNSName(server_name(cluster, role))]
        uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        certificate = (
            self._begin(_name(role), key, valid)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        return certificate.public_bytes(PEM), key.private_bytes(PEM, form, plain)

    def _begin(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, valid: datetime.timedelta
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + min(valid, datetime.timedelta()) - EARLIER)
            .not_valid_after(now + valid)
        )


def make_certificates(folder: Path, cluster: str) -> None:
    """Makes `folder` with ca.crt, ROLE.crt and ROLE.key, for this user alone."""
    folder.mkdir(mode=0o700)
    authority = Authority()
    files = {"ca.crt": authority.certificate}
    for role in ROLES:
        files[f"{role}.crt"], files[f"{role}.key"] = authority.issue(cluster, role)
    for name, data in files.items():
        with os.fdopen(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as opened:
            opened.write(data)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
