"""The order of workers: by name and number, as a StatefulSet counts."""

from __future__ import annotations

import re


def ordinal(worker_id: str) -> tuple[str, int]:
    """Returns the sort key of a worker: its name, then the number at the name's end, as a StatefulSet counts."""
    match = re.fullmatch(r"(.*?)(\d{0,18})", worker_id, re.DOTALL)
    assert match
    return match[1], int(match[2] or 0)
