"""When certificates are renewed, and the authority that issues them; pure: no I/O, and the time is given.

A new authority is first believed by everybody, and issues only after SPREAD; the one before is believed until it
expires. So certificates of both are good at any moment, and nothing has to happen everywhere at once.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization

from services.certificates.authority import EARLIER, Authority
from services.security.identity import server_name, uri

# Keys of a Secret, as in one of type kubernetes.io/tls: the authorities to believe, a certificate, its key. In the
# authority's Secret also the authority that is to issue next.
BELIEVED, CERT, KEY = "ca.crt", "tls.crt", "tls.key"
NEXT_CERT, NEXT_KEY = "next.crt", "next.key"
# There, whatever it holds: the next authority is to be made now. It goes once that has been done.
ROTATE = "rotate"

LEFT = datetime.timedelta(days=365)  # of an authority, when the next one is made
SPREAD = datetime.timedelta(days=1)  # from then until it issues: pods get what is in a Secret within minutes

Data = Mapping[str, bytes]


class BadAuthority(ValueError):
    """What is in the authority's Secret cannot be used; the message says which part."""


def authorities(held: Data, cluster: str, now: datetime.datetime) -> dict[str, bytes]:
    """What the authority's Secret is to hold, given what it holds. Raises BadAuthority rather than to replace it."""
    if not held.get(CERT) and not held.get(KEY):
        first = Authority.made(f"Caracal, {cluster}"[:64], now)
        return {BELIEVED: first.certificate, CERT: first.certificate, KEY: first.private_key}
    signer, following = _authority(held, CERT, KEY), None
    if held.get(NEXT_CERT):
        following = _authority(held, NEXT_CERT, NEXT_KEY)
    elif ROTATE in held or _certificate(signer.certificate).not_valid_after_utc - now < LEFT:
        following = Authority.made(f"Caracal, {cluster}"[:64], now)
    if following is not None and now - (_certificate(following.certificate).not_valid_before_utc + EARLIER) >= SPREAD:
        signer, following = following, None
    wanted = {CERT: signer.certificate, KEY: signer.private_key}
    if following is not None:
        wanted |= {NEXT_CERT: following.certificate, NEXT_KEY: following.private_key}
    new = [one.certificate for one in (signer, following) if one is not None]
    before = [pem for pem in _split(held.get(BELIEVED, b"")) if _certificate(pem).not_valid_after_utc > now]
    return wanted | {BELIEVED: b"".join([*new, *(pem for pem in before if pem not in new)])}


def role_data(
    held: Data, authority: Data, cluster: str, role: str, valid: datetime.timedelta, now: datetime.datetime
) -> dict[str, bytes]:
    """What a role's Secret is to hold, given what it and the authority's hold. A certificate is kept while it is of the
    authority that issues, for the right names, and more than a third of its time is left."""
    signer = _authority(authority, CERT, KEY)
    cert, key = held.get(CERT, b""), held.get(KEY, b"")
    if not _is_good(cert, key, signer, cluster, role, now + valid / 3):
        cert, key = signer.issue(cluster, role, valid, now)
    return {BELIEVED: authority[BELIEVED], CERT: cert, KEY: key}


def expires(cert: bytes) -> datetime.datetime:
    """When a certificate in PEM expires."""
    return _certificate(cert).not_valid_after_utc


def _is_good(cert: bytes, key: bytes, signer: Authority, cluster: str, role: str, until: datetime.datetime) -> bool:
    try:
        shown = _certificate(cert)
        shown.verify_directly_issued_by(_certificate(signer.certificate))
        names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        own = serialization.load_pem_private_key(key, None).public_key()
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    hosts = names.get_values_for_type(x509.DNSName)
    right = uris == [uri(cluster, role)] and hosts == [server_name(cluster, role)]
    return right and own == shown.public_key() and shown.not_valid_after_utc > until


def _authority(held: Data, cert: str, key: str) -> Authority:
    try:
        return Authority.read(held.get(cert, b""), held.get(key, b""))
    except (ValueError, TypeError) as error:
        raise BadAuthority(f"{cert} and {key} are no authority ({error}): delete both for a new one") from None


def _certificate(pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem)


def _split(pem: bytes) -> list[bytes]:
    """The certificates in PEM of a text, each by itself. Raises BadAuthority."""
    try:
        found = x509.load_pem_x509_certificates(pem) if pem.strip() else []
    except ValueError as error:
        raise BadAuthority(f"{BELIEVED} holds no certificates ({error})") from None
    return [one.public_bytes(serialization.Encoding.PEM) for one in found]
