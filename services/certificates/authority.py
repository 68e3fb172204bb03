"""An authority of one cluster, and the certificates that it issues to roles."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from services.security.identity import server_name, uri

VALID = datetime.timedelta(days=3650)
EARLIER = datetime.timedelta(hours=1)  # for clocks that differ
PEM = serialization.Encoding.PEM


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate of an authority, and its key."""

    certificate: bytes  # in PEM
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def made(cls, name: str, made_at: datetime.datetime | None = None) -> Authority:
        """A new one, valid for VALID."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(name)
        usage = x509.KeyUsage(
            False, False, False, False, False, True, True, False, False
        )  # certificates and their lists
        certificate = (
            _begun(subject, subject, key, made_at or now(), VALID)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate.public_bytes(PEM), key)

    @classmethod
    def read(cls, certificate: bytes, key: bytes) -> Authority:
        """Raises ValueError when they are no certificate and key in PEM that belong together."""
        read = serialization.load_pem_private_key(key, None)
        if not isinstance(read, ec.EllipticCurvePrivateKey):
            raise ValueError("the key is of another kind")
        if x509.load_pem_x509_certificate(certificate).public_key() != read.public_key():
            raise ValueError("it is not the key of the certificate")
        return cls(certificate, read)

    @property
    def private_key(self) -> bytes:
        """The key in PEM."""
        return _pem(self.key)

    def issue(
        self, cluster: str, role: str, valid: datetime.timedelta = VALID, issued_at: datetime.datetime | None = None
    ) -> tuple[bytes, bytes]:
        """A certificate for a role, valid for so long from now on, and its key, in PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        own = x509.load_pem_x509_certificate(self.certificate)
        names = [x509.UniformResourceIdentifier(uri(cluster, role)), x509.DNSName(server_name(cluster, role))]
        uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        certificate = (
            _begun(_name(role), own.subject, key, issued_at or now(), valid)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(identifier, critical=False)
            .sign(self.key, hashes.SHA256())
        )
        return certificate.public_bytes(PEM), _pem(key)


def _begun(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    since: datetime.datetime,
    valid: datetime.timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(since + min(valid, datetime.timedelta()) - EARLIER)
        .not_valid_after(since + valid)
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
