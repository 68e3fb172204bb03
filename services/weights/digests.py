"""Digests of files, in the forms that stores have them, and what computes them while bytes arrive."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

SHA256, GIT, MD5, MD5_OF_PARTS = "sha256", "git sha1", "md5", "md5 of parts"
_MIB = 1 << 20
# Sizes of parts with which programs upload: a store says how many parts there were, and not how large.
PART_BYTES = (
    *(size * _MIB for size in (5, 8, 10, 15, 16, 25, 32, 50, 64, 100, 128, 256, 512, 1024)),
    *(size * 1_000_000 for size in (5, 8, 16, 50, 100)),
)


@dataclass(frozen=True, slots=True)
class Digest:
    """`kind` says of what; `value` is in hexadecimal, for parts with `-COUNT` at its end."""

    kind: str
    value: str

    def __str__(self) -> str:
        return f"{self.kind} {self.value}"


class Hasher(Protocol):
    """Takes a file's bytes in order."""

    def update(self, data: bytes, /) -> None: ...

    def matches(self) -> bool:
        """Whether the bytes so far are those of the digest."""
        ...

    def found(self) -> str:
        """The digest of the bytes so far, in the digest's own form."""
        ...


def etag_digest(etag: str | None, size: int) -> Digest | None:
    """What an object store's ETag says of the content; None where that cannot be known."""
    value = (etag or "").strip('"').lower()
    if re.fullmatch(r"[0-9a-f]{32}", value):
        return Digest(MD5, value)
    if re.fullmatch(r"[0-9a-f]{32}-[1-9][0-9]{0,4}", value) and part_sizes(size, int(value[33:])):
        return Digest(MD5_OF_PARTS, value)
    return None


def part_sizes(size: int, parts: int) -> list[int]:
    """The sizes of parts, of those in use, that make so many of a file."""
    return [part for part in PART_BYTES if -(-size // part) == parts]


def hasher(digest: Digest | None, size: int) -> Hasher:
    """Computes a file's digest, or SHA-256 where there is none to compare with."""
    if digest is None:
        return _Plain(hashlib.sha256(), "")
    if digest.kind == SHA256:
        return _Plain(hashlib.sha256(), digest.value)
    if digest.kind == GIT:
        return _Plain(hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False), digest.value)
    if digest.kind == MD5:
        return _Plain(hashlib.md5(usedforsecurity=False), digest.value)
    parts = int(digest.value.partition("-")[2])
    return _AnyOf([_Parts(part) for part in part_sizes(size, parts)], digest.value)


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...

    def hexdigest(self) -> str: ...


class _Plain:
    def __init__(self, hash: _Hash, wanted: str) -> None:
        self._hash, self._wanted = hash, wanted
        self.update = hash.update

    def matches(self) -> bool:
        return self._wanted in ("", self._hash.hexdigest())

    def found(self) -> str:
        return self._hash.hexdigest()


class _Parts:
    """The MD5 of the MD5s of parts of one size."""

    def __init__(self, part_bytes: int) -> None:
        self._part_bytes, self._left = part_bytes, part_bytes
        self._part, self._done = hashlib.md5(usedforsecurity=False), bytearray()

    def update(self, data: bytes, /) -> None:
        view = memoryview(data)
        while len(view) > self._left:
            self._part.update(view[: self._left])
            view = view[self._left :]
            self._done += self._part.digest()
            self._part, self._left = hashlib.md5(usedforsecurity=False), self._part_bytes
        self._part.update(view)
        self._left -= len(view)

    def hexdigest(self) -> str:
        done = bytes(self._done) + self._part.digest()
        return f"{hashlib.md5(done, usedforsecurity=False).hexdigest()}-{len(done) // 16}"


class _AnyOf:
    def __init__(self, hashes: Sequence[_Parts], wanted: str) -> None:
        self._hashes, self._wanted = hashes, wanted

    def update(self, data: bytes, /) -> None:
        for each in self._hashes:
            each.update(data)

    def matches(self) -> bool:
        return any(each.hexdigest() == self._wanted for each in self._hashes)

    def found(self) -> str:
        return self._hashes[0].hexdigest()
