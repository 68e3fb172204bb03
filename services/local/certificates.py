"""Certificates of a throw-away authority, for the processes of a cluster on this machine.

The authority's key is never written: once the certificates are made nobody can make another. Nobody renews them, and
they go when the cluster does.
"""

from __future__ import annotations

import os
from pathlib import Path

from services.certificates.authority import Authority
from services.security.identity import ROLES


def make_certificates(folder: Path, cluster: str) -> None:
    """Makes `folder` with ca.crt, ROLE.crt and ROLE.key, for this user alone."""
    folder.mkdir(mode=0o700)
    authority = Authority.made("Caracal, throw-away")
    files = {"ca.crt": authority.certificate}
    for role in ROLES:
        files[f"{role}.crt"], files[f"{role}.key"] = authority.issue(cluster, role)
    for name, data in files.items():
        with os.fdopen(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as opened:
            opened.write(data)
