"""Compressed bodies of requests: gzip and deflate, never decompressed beyond a limit."""

from __future__ import annotations

import zlib

from services.router.requests.errors import InvalidRequest, UnsupportedMediaType

TAKEN = ("gzip", "deflate", "identity")
MOST_MEMBERS = 16  # of a gzip body: each costs a copy of what follows it
GZIP, ZLIB, RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS


class BadCompression(InvalidRequest):
    """Expected: the body is not what its Content-Encoding says."""

    code = "invalid_encoding"


class UnsupportedEncoding(UnsupportedMediaType):
    """Expected: a Content-Encoding that is not taken. The response names those that are."""


def encoding_of(header: str) -> str:
    """The one encoding of a Content-Encoding header, of TAKEN. Raises UnsupportedEncoding."""
    names = [name for part in header.lower().split(",") if (name := part.strip()) not in ("", "identity")]
    encoding = {"x-gzip": "gzip"}.get(names[0], names[0]) if names else "identity"
    if len(names) > 1 or encoding not in TAKEN:
        raise UnsupportedEncoding(f"Content-Encoding must be one of {', '.join(TAKEN)}.")
    return encoding


class Decoder:
    """Decompresses one body piece by piece. A gzip body may have several members, a deflate body no zlib header."""

    def __init__(self, encoding: str) -> None:
        """`encoding`: of `encoding_of`."""
        self._encoding = encoding
        self._stream = zlib.decompressobj(GZIP) if encoding == "gzip" else None
        self._members = 1
        self._head = b""  # of a deflate body: its first two bytes say whether it has zlib's header

    def feed(self, data: bytes, most: int) -> bytes:
        """What the next bytes of the body stand for, `most` + 1 bytes of it at most, which is then not all of it.

        Raises BadCompression.
        """
        if self._encoding == "identity":
            return data
        if self._stream is None:
            self._head += data
            if len(self._head) < 2:
                return b""
            data, self._head = self._head, b""
            has_header = data[0] & 15 == 8 and int.from_bytes(data[:2]) % 31 == 0
            self._stream = zlib.decompressobj(ZLIB if has_header else RAW)
        found = b""
        try:
            while data and len(found) <= most:
                if self._stream.eof:  # the next member, or zeros after the last one
                    data = data.lstrip(b"\0")
                    if not data:
                        break
                    self._members += 1
                    if self._encoding != "gzip" or self._members > MOST_MEMBERS:
                        raise BadCompression("The body has bytes after its compressed data.")
                    self._stream = zlib.decompressobj(GZIP)
                found += self._stream.decompress(data, most + 1 - len(found))
                data = self._stream.unused_data or self._stream.unconsumed_tail
        except zlib.error:
            raise BadCompression(f"The body is not valid {self._encoding}.") from None
        return found

    def finish(self) -> None:
        """Raises BadCompression when the body has ended before its compressed data did."""
        if self._encoding != "identity" and (self._stream is None or not self._stream.eof):
            raise BadCompression(f"The {self._encoding} of the body ends too early.")
