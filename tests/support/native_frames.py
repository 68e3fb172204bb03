"""Native frames read and written in Python, from the layout in services/transport/native/frame.h alone."""

from __future__ import annotations

import socket
import struct
from dataclasses import astuple, dataclass, fields, replace

from services.transport.native_extension import native

MAGIC, VERSION = 0x4C524143, 1
HELLO, WELCOME, CALL, REPLY, PING, PONG = range(1, 7)
_LAYOUT = struct.Struct("<IHH4Q8IQI")  # all but the header's own checksum
HEADER_BYTES = _LAYOUT.size + 4


class FramesEnded(ConnectionError):
    """The peer closed the connection."""


@dataclass(frozen=True)
class Frame:
    """One frame; `sealed` computes its checksums and its length."""

    magic: int = MAGIC
    version: int = VERSION
    kind: int = PING
    session: int = 0
    call: int = 0
    step: int = 0
    epoch: int = 0
    layer: int = 0
    deadline_ms: int = 0
    rows: int = 0
    assignments: int = 0
    hidden: int = 0
    dtype: int = 0
    status: int = 0
    body_crc: int = 0
    body_bytes: int = 0
    reserved: int = 0
    body: bytes = b""

    def sealed(self) -> Frame:
        return replace(self, body_crc=native().crc32c(self.body), body_bytes=len(self.body))

    def encoded(self) -> bytes:
        """The frame with its fields as they are, and a right checksum of the header."""
        header = _LAYOUT.pack(*astuple(self)[:-1])
        return header + struct.pack("<I", native().crc32c(header)) + self.body


def read_frame(connected: socket.socket) -> Frame:
    """Raises FramesEnded, also within a frame."""
    frame = parsed(exactly(connected, HEADER_BYTES))
    return replace(frame, body=exactly(connected, frame.body_bytes))


def parsed(header: bytes) -> Frame:
    """A frame by its header, without its body."""
    return Frame(*_LAYOUT.unpack(header[:-4]))


def exactly(connected: socket.socket, size: int) -> bytes:
    """Raises FramesEnded."""
    data = bytearray()
    while len(data) < size:
        try:
            more = connected.recv(size - len(data))
        except OSError as error:
            raise FramesEnded(str(error)) from None
        if not more:
            raise FramesEnded("closed")
        data += more
    return bytes(data)


assert len(fields(Frame)) == 18, "the layout and the fields go together"
