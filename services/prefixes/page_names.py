"""The names of a sequence's pages: what a page holds follows from its name, so that one page serves many sequences.

A latent depends on all ids before it, on its own, and on what computed it. So a name is a hash of the name before and
of the page's ids, and the first one goes back to a root, of the numerics class, the page size and the salt. A collision
would change an answer: the hash is a cryptographic one.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cache
from hashlib import blake2b

NAME_BYTES = 32
MAX_SALT_BYTES = 64


def root_name(numerics_class: str, page_size: int, salt: bytes = b"") -> bytes:
    """What the names of sequences of one class, page size and salt begin with; others share no page with them."""
    parts = (b"caracal pages 1", numerics_class.encode(), b"%d" % page_size, salt)
    made = blake2b(digest_size=NAME_BYTES)
    for part in parts:
        made.update(len(part).to_bytes(4, "little") + part)
    return made.digest()


class PageNames:
    """The names of one sequence's full pages, each hashed once, when it is asked for."""

    def __init__(self, root: bytes, page_size: int) -> None:
        self._page_size = page_size
        self._pack = _packer(page_size).pack
        self._names = [root]

    def of(self, ids: Sequence[int], tokens: int) -> list[bytes]:
        """The names of the pages that are full with the first `tokens` of `ids`. Ids below that never change."""
        pages = tokens // self._page_size
        while len(self._names) <= pages:
            self.extend(ids)
        return self._names[1 : pages + 1]

    def extend(self, ids: Sequence[int]) -> bytes:
        """Hashes the next page, which `ids` fill; returns its name."""
        start = (len(self._names) - 1) * self._page_size
        name = blake2b(self._pack(*ids[start : start + self._page_size]), digest_size=NAME_BYTES, key=self._names[-1])
        self._names.append(name.digest())
        return self._names[-1]


@cache
def _packer(page_size: int) -> struct.Struct:
    return struct.Struct(f"<{page_size}I")
