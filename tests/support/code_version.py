"""Which code a result is of: results of other code are not added to."""

from __future__ import annotations

import hashlib
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
SOURCES = ("*.py", "*.cpp", "*.hpp", "*.h", "*.proto")


def code_version(*folders: str) -> str:
    """A digest over the sources in these folders of the repository, and over their names."""
    digest = hashlib.sha256()
    files = {file for folder in folders for source in SOURCES for file in (REPO / folder).rglob(source)}
    for file in sorted(files):
        digest.update(f"{file.relative_to(REPO)}\0".encode())
        digest.update(file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
