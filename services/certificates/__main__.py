"""`python -m services.certificates`: makes what certificates of a cluster are missing or about to expire, and ends.

Run again, it does nothing until there is something to do. Two at once do not disturb each other: whoever finds a Secret
changed begins again.
"""

from __future__ import annotations

from importlib.util import find_spec

from services.certificates.settings import CertificateSettings
from services.process.lifecycle import exit_with_error
from services.process.settings import InvalidSetting
from services.process.telemetry import configure_logging

PACKAGES = ("cryptography", "kubernetes")


def main() -> None:
    try:
        settings = CertificateSettings.from_env()
    except InvalidSetting as error:
        exit_with_error(str(error))
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        exit_with_error(f"no package {missing[0]}: the image of all roles has it, or pip install 'caracal[local,k8s]'")
    from services.certificates.renewal import BadAuthority
    from services.certificates.run import AlwaysChanged, renew_in_time
    from services.certificates.secrets import Secrets, SecretUnavailable

    configure_logging("certificates", level=settings.log_level)
    try:
        renew_in_time(Secrets.in_cluster(), settings)
    except (SecretUnavailable, BadAuthority, AlwaysChanged) as error:
        exit_with_error(str(error))


if __name__ == "__main__":
    main()
