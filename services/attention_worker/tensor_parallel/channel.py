"""Frames over a socket pair between rank 0 and another rank: a length of eight bytes, then so many bytes."""

from __future__ import annotations

import contextlib
import socket
import struct

_LENGTH = struct.Struct("<Q")


class ChannelClosed(ConnectionError):
    """The other side is gone."""


class Channel:
    """One side. Sending and receiving each belong to one thread; `close_down` to any."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, frame: bytes) -> None:
        """Raises ChannelClosed."""
        try:
            self._socket.sendall(_LENGTH.pack(len(frame)) + frame)
        except OSError as error:
            raise ChannelClosed(str(error)) from None

    def receive(self) -> bytearray:
        """Waits for a frame. Raises ChannelClosed."""
        (length,) = _LENGTH.unpack(self._exactly(_LENGTH.size))
        return self._exactly(length)

    def close_down(self) -> None:
        """Both sides see the end; whoever waits here wakes up."""
        with contextlib.suppress(OSError):  # the other side was faster
            self._socket.shutdown(socket.SHUT_RDWR)

    def _exactly(self, length: int) -> bytearray:
        found = bytearray(length)
        view = memoryview(found)
        while view:
            try:
                got = self._socket.recv_into(view)
            except OSError:
                got = 0
            if not got:
                raise ChannelClosed("the channel ended")
            view = view[got:]
        return found
