"""The id of what the native data plane was compiled from; setup.py runs this file alone, so it imports no torch."""

from __future__ import annotations

import hashlib
from pathlib import Path

SOURCES = Path(__file__).parent / "native"


def build_id(torch_version: str) -> str:
    """`caracal-native-` and 16 hex digits over the sources and torch's version: equal means it fits."""
    digest = hashlib.sha256(torch_version.encode())
    for source in sorted(SOURCES.iterdir()):
        if source.suffix in (".cpp", ".h"):
            digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    return f"caracal-native-{digest.hexdigest()[:16]}"
