"""Small files with secrets, which may be replaced at any time."""

from __future__ import annotations

import os
from pathlib import Path


class Unreadable(ValueError):
    """A file that cannot be read. The message says why, without its name."""


def state_of(file: Path) -> object:
    """What differs once the file has been written or replaced. Raises Unreadable."""
    try:
        found = os.stat(file)
    except (OSError, ValueError) as error:
        raise Unreadable(str(getattr(error, "strerror", error))) from None
    return found.st_ino, found.st_dev, found.st_mtime_ns, found.st_size


def contents(file: Path, max_bytes: int) -> bytes:
    """Raises Unreadable."""
    try:
        if not file.is_file():  # to open a FIFO would wait for its writer
            raise Unreadable("not a file")
        with file.open("rb") as opened:
            data = opened.read(max_bytes + 1)
    except OSError as error:
        raise Unreadable(str(error.strerror)) from None
    if len(data) > max_bytes:
        raise Unreadable(f"longer than {max_bytes} bytes")
    return data
