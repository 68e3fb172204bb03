"""Settings of the process that makes and renews certificates."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from services.process.settings import ServiceSettings, Settings, setting, setting_like
from services.security.identity import cluster_violation


@dataclass(frozen=True, kw_only=True)
class CertificateSettings(Settings):
    """What it makes, and where it keeps it."""

    cluster: str = setting_like(ServiceSettings, "cluster")
    log_level: str = setting_like(ServiceSettings, "log_level")
    secrets: str = setting("its Secrets are called this and -ca, -router, -attention and -expert; they have to exist")
    certificate_days: int = setting(
        "days for which a certificate is valid; it is renewed when a third of them is left", 90, minimum=2, maximum=365
    )

    def validate(self) -> None:
        if why := cluster_violation(self.cluster):
            raise self.invalid("cluster", self.cluster, why)

    @property
    def valid(self) -> datetime.timedelta:
        """For how long a certificate is valid."""
        return datetime.timedelta(days=self.certificate_days)
