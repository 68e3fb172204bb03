"""The file beside a checkpoint that keeps the checksums of its tensors as they were first read.

It decides nothing by itself: what a worker loads is what it has read. But a tensor that is not what it was, in a file
whose size and time of modification are, was damaged on the disk or on its way from it, and is refused by name. A folder
that cannot be written to has no such file, and is served all the same.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.checkpoint.checksums import Part, Parts
from services.checkpoint.regular_files import read_whole

NAME = "caracal-checksums.json"
FORMAT = 1
MOST = 1 << 32

Identity = tuple[int, int]  # size and time of modification, in nanoseconds


def identity_of(file: Path) -> Identity:
    """Raises OSError."""
    found = file.stat()
    return found.st_size, found.st_mtime_ns


@dataclass(slots=True)
class _Kept:
    """The file's content, of files that are as they were."""

    files: dict[str, Identity] = field(default_factory=dict)
    whole: dict[str, int] = field(default_factory=dict)
    parts: Parts = field(default_factory=dict)
    file_of: dict[str, str] = field(default_factory=dict)  # the file of each tensor


class ChecksumFile:
    """The checksums that a folder keeps, as of when it was opened; `save` adds to them."""

    def __init__(self, folder: Path, files: Collection[Path]) -> None:
        """`files`: those of the weights."""
        self._path = folder / NAME
        self._files = {file.name: file for file in files}
        self._identities = {name: identity_of(file) for name, file in self._files.items()}
        self._kept = self._read()

    def known(self, name: str, part: Part, size: int) -> int | None:
        """The checksum that a part of a tensor had, if it was ever kept."""
        kept = self._kept
        return kept.whole.get(name) if part == (0, size) else kept.parts.get(name, {}).get(part)

    def save(self, whole: Mapping[str, int], parts: Parts, file_of: Callable[[str], str]) -> bool:
        """Keeps what was read, too; returns whether the folder has it now. Another process may write at any time."""
        if all(self._kept.whole.get(name) == one for name, one in whole.items()) and all(
            part in self._kept.parts.get(name, {}) for name, its in parts.items() for part in its
        ):
            return True
        try:
            if {name: identity_of(file) for name, file in self._files.items()} != self._identities:
                return False  # it was written to meanwhile
            kept = self._read()
            kept.whole = {**whole, **kept.whole}  # what was first read stands
            kept.parts = {name: parts.get(name, {}) | kept.parts.get(name, {}) for name in (*parts, *kept.parts)}
            kept.file_of.update({name: file_of(name) for name in (*whole, *parts)})
            self._write(kept)
        except OSError:
            return False
        self._kept = kept
        return True

    def _read(self) -> _Kept:
        """What the file has of files that are as they were when this was opened; nothing for what is no such file."""
        try:
            raw = json.loads(read_whole(self._path))
            return self._checked(raw)
        except (OSError, ValueError, RecursionError, TypeError, KeyError, AttributeError):
            return _Kept()

    def _checked(self, raw: Any) -> _Kept:
        kept = _Kept()
        if raw["format"] != FORMAT:
            return kept
        for file, (size, modified_ns, tensors, parts) in raw["files"].items():
            if self._identities.get(file) != (size, modified_ns):
                continue
            kept.files[file] = size, modified_ns
            kept.whole.update({name: _checksum(one) for name, one in tensors.items()})
            for name, its in parts.items():
                kept.parts[name] = {(int(begin), int(end)): _checksum(one) for begin, end, one in its}
            kept.file_of.update(dict.fromkeys((*tensors, *parts), file))
        return kept

    def _write(self, kept: _Kept) -> None:
        """Raises OSError."""
        files: dict[str, tuple[int, int, dict[str, int], dict[str, list[list[int]]]]] = {
            file: (*identity, {}, {}) for file, identity in self._identities.items()
        }
        for name, one in kept.whole.items():
            files[kept.file_of[name]][2][name] = one
        for name, its in kept.parts.items():
            files[kept.file_of[name]][3][name] = [[*part, one] for part, one in sorted(its.items())]
        descriptor, temporary = tempfile.mkstemp(prefix=f".{NAME}.", dir=self._path.parent)
        try:
            with open(descriptor, "w") as stream:
                json.dump({"format": FORMAT, "files": files}, stream)
                os.fchmod(stream.fileno(), 0o644)
            Path(temporary).replace(self._path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def _checksum(value: Any) -> int:
    if type(value) is not int or not 0 <= value < MOST:
        raise ValueError(f"{value!r} is no CRC-32")
    return value
