"""`python -m services.certificates`: makes what certificates of a cluster are missing or about to expire, and ends.

Run again, it does nothing until there is something to do. Two at once do not disturb each other: whoever finds a Secret
changed begins again.
"""

from __future__ import annotations

import structlog

from services.certificates.authority import now
from services.certificates.renewal import CERT, BadAuthority, authorities, expires, role_data
from services.certificates.secrets import SecretChanged, Secrets, SecretUnavailable
from services.certificates.settings import CertificateSettings
from services.process.lifecycle import exit_with_error
from services.process.settings import InvalidSetting
from services.process.telemetry import configure_logging
from services.security.identity import ROLES

log = structlog.get_logger(__name__)

TRIES = 10


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


def main() -> None:
    try:
        settings = CertificateSettings.from_env()
        configure_logging("certificates", level=settings.log_level)
        secrets = Secrets.in_cluster()
        for _ in range(TRIES):
            try:
                return renew(secrets, settings)
            except SecretChanged as error:
                log.info("a secret was changed by somebody else", secret=str(error))
        exit_with_error("the secrets are changed all the time")
    except (InvalidSetting, SecretUnavailable, BadAuthority) as error:
        exit_with_error(str(error))


if __name__ == "__main__":
    main()
