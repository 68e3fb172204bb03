"""What a rank says once it has loaded its part: its numerics class, and the checksums of what it has read."""

from __future__ import annotations

import json

from services.checkpoint.checksums import Checksums, Parts

Read = tuple[dict[str, int], Parts]


def ready_frame(numerics_class: str, read: Checksums) -> bytes:
    whole, parts = read.read_so_far()
    rows = {name: [[*part, one] for part, one in its.items()] for name, its in parts.items()}
    return json.dumps([numerics_class, whole, rows]).encode()


def unpack_ready(frame: bytes | bytearray) -> tuple[str, Read]:
    """(numerics class, what `Checksums.read_so_far` gave there)."""
    numerics_class, whole, rows = json.loads(frame)
    return numerics_class, (
        whole,
        {name: {(begin, end): one for begin, end, one in its} for name, its in rows.items()},
    )
