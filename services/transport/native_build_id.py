"""The id of what a native extension was compiled from; setup.py runs this file alone, so it imports no torch."""

from __future__ import annotations

import hashlib
from pathlib import Path


def build_id(torch_version: str, *sources: Path) -> str:
    """`caracal-native-` and 16 hex digits over torch's version and sources, files or folders of them: equal means it
    fits."""
    digest = hashlib.sha256(torch_version.encode())
    for source in sources:
        for file in sorted(source.iterdir()) if source.is_dir() else [source]:
            if file.suffix in (".cpp", ".h"):
                digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return f"caracal-native-{digest.hexdigest()[:16]}"
