"""CRC-32 of tensors' bytes as they were read, whole or by parts, and of whole ones made from those of their parts.

Every byte counts, whatever it is in: one flipped bit of a tensor always changes its checksum.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from caracal_kernels import joined_crc32

Part = tuple[int, int]  # first byte and the one after the last, counted from the beginning of the tensor
Parts = dict[str, dict[Part, int]]


class Checksums:
    """What one process has read of each tensor, by name. Any thread may use it."""

    def __init__(self) -> None:
        self._whole: dict[str, int] = {}
        self._parts: Parts = {}
        self._news: set[tuple[str, Part | None]] = set()  # what was noted since `take_news`
        self._lock = threading.Lock()

    def note(self, name: str, part: Part, size: int, checksum: int) -> None:
        """Takes the checksum of a part that was read, of a tensor of so many bytes."""
        with self._lock:
            if part == (0, size):
                self._whole[name] = checksum
                self._news.add((name, None))
            else:
                self._news.add((name, part))
                self._parts.setdefault(name, {})[part] = checksum

    def read_so_far(self) -> tuple[dict[str, int], Parts]:
        """Copies of what was noted: of tensors that were read whole, and of those that were read by parts."""
        with self._lock:
            return dict(self._whole), {name: dict(parts) for name, parts in self._parts.items()}

    def take_news(self) -> tuple[dict[str, int], Parts]:
        """As `read_so_far`, of what was noted since the last call."""
        with self._lock:
            news, self._news = self._news, set()
            parts: Parts = {}
            for name, part in news:
                if part is not None:
                    parts.setdefault(name, {})[part] = self._parts[name][part]
            return {name: self._whole[name] for name, part in news if part is None}, parts

    def add(self, whole: Mapping[str, int], parts: Parts) -> None:
        """Takes what another process has read, such as another rank."""
        with self._lock:
            self._whole.update(whole)
            for name, its in parts.items():
                self._parts.setdefault(name, {}).update(its)

    def of(self, name: str, part: Part, size: int) -> int | None:
        """The checksum of a part; None if it was not read as one, nor, if it is the whole, in parts side by side."""
        if part == (0, size):
            return self.whole(name, size)
        with self._lock:
            return self._parts.get(name, {}).get(part)

    def whole(self, name: str, size: int) -> int | None:
        """The checksum of all `size` bytes of a tensor; None where its parts leave a gap, or overlap."""
        with self._lock:
            if (found := self._whole.get(name)) is not None:
                return found
            by_begin = {begin: (end, checksum) for (begin, end), checksum in self._parts.get(name, {}).items()}
        at = checksum = 0
        while at < size:
            if (part := by_begin.get(at)) is None:
                return None
            checksum = joined_crc32(checksum, part[1], part[0] - at)
            at = part[0]
        return checksum if at == size else None


def differing(names: Sequence[str], given: Sequence[int], known: Sequence[int]) -> list[str]:
    """The names of the tensors whose checksum is another than the known one."""
    return [name for name, one, other in zip(names, given, known, strict=True) if one != other]
