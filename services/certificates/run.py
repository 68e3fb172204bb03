"""One run: every Secret of a cluster is brought up to date."""

from __future__ import annotations

import structlog

from services.certificates.authority import now
from services.certificates.renewal import CERT, BadAuthority, authorities, expires, role_data
from services.certificates.secrets import SecretChanged, Secrets
from services.certificates.settings import CertificateSettings
from services.security.identity import ROLES

log = structlog.get_logger(__name__)

TRIES = 10


class AlwaysChanged(RuntimeError):
    """Somebody else changes the Secrets whenever they have been read."""


def renew_in_time(secrets: Secrets, settings: CertificateSettings) -> None:
    """Brings every Secret up to date, beginning again when one was changed meanwhile.

    Raises AlwaysChanged, SecretUnavailable, BadAuthority.
    """
    for _ in range(TRIES):
        try:
            return renew(secrets, settings)
        except SecretChanged as error:
            log.info("a secret was changed by somebody else", secret=str(error))
    raise AlwaysChanged("the secrets are changed all the time")


def renew(secrets: Secrets, settings: CertificateSettings) -> None:
    """Brings every Secret up to date, the authority's first. Raises SecretChanged, SecretUnavailable, BadAuthority."""
    name = f"{settings.secrets}-ca"
    held = secrets.read(name)
    try:
        authority = authorities(held.data, settings.cluster, now())
    except BadAuthority as error:
        raise BadAuthority(f"Secret {name}: {error}") from None
    if authority != held.data:
        secrets.write(name, held, authority)
        log.info("the authority's secret has changed", secret=name, expires=expires(authority[CERT]).isoformat())
    for role in ROLES:
        name = f"{settings.secrets}-{role}"
        held = secrets.read(name)
        wanted = role_data(held.data, authority, settings.cluster, role, settings.valid, now())
        if wanted != held.data:
            secrets.write(name, held, wanted)
            log.info("a certificate's secret has changed", secret=name, expires=expires(wanted[CERT]).isoformat())
