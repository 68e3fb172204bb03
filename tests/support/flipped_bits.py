"""Bits of weights that flip in a checkpoint's files."""

from __future__ import annotations

import os
from pathlib import Path

from services.checkpoint.safetensors import stored_tensors


def place_of(path: Path, name: str) -> tuple[Path, int, int]:
    """(file, first byte, size) of a tensor."""
    stored = stored_tensors(path)[name]
    return stored.file, stored.begin, stored.end - stored.begin


def flip(path: Path, name: str, byte: int, keep_time: bool = False) -> str:
    """Flips one bit of a byte, counted around, of a tensor's file; returns the file's name.

    With `keep_time` the file's time of modification stays.
    """
    file, begin, size = place_of(path, name)
    before = file.stat()
    with file.open("r+b") as stream:
        stream.seek(begin + byte % size)
        (value,) = stream.read(1)
        stream.seek(begin + byte % size)
        stream.write(bytes([value ^ 1]))
    if keep_time:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    return file.name
