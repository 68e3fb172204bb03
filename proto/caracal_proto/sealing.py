"""A checksum behind the bytes of a message, over all of them, so that what is parsed is what was sent.

It stands in a field that no message declares, and whoever does not know it skips it. A call whose first message has one
has one in all of its messages: one that lacks it, or whose bytes differ, is damaged.
"""

from __future__ import annotations

import zlib

MARK = b"\x82\x41\x08CRC3"  # field 1040: eight bytes, of which the last four are the checksum
BYTES = len(MARK) + 4


class Damaged(ValueError):
    """What came is not what was sent."""


def sealed(data: bytes) -> bytes:
    """A serialized message with its checksum."""
    return b"".join((data, MARK, zlib.crc32(data).to_bytes(4, "little")))


class Seals:
    """The checksums of one call's messages in one direction."""

    def __init__(self) -> None:
        self.seen = False

    def check(self, data: bytes) -> None:
        """Raises Damaged. A message without a checksum passes until one with it has come."""
        if data[-BYTES:-4] != MARK:
            if self.seen:
                raise Damaged("a message has no checksum")
            return
        self.seen = True
        if zlib.crc32(memoryview(data)[:-BYTES]) != int.from_bytes(data[-4:], "little"):
            raise Damaged("a message fails its checksum")
