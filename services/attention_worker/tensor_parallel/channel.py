"""Frames between rank 0 and another rank over a socketpair: a length of eight bytes, then so many bytes."""

from __future__ import annotations

import contextlib
import socket
import struct

_LENGTH = struct.Struct("<Q")


class ChannelClosed(ConnectionError):
    """The other side has closed the channel or has ended."""


class Channel:
    """One side of a channel. One thread sends and one receives; any thread may call `close_down`."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, frame: bytes) -> None:
        """Sends a frame. Raises ChannelClosed."""
        try:
            self._socket.sendall(_LENGTH.pack(len(frame)) + frame)
        except OSError as error:
            raise ChannelClosed(str(error)) from None

    def receive(self) -> bytearray:
        """Waits for a frame. Raises ChannelClosed."""
        (length,) = _LENGTH.unpack(self._exactly(_LENGTH.size))
        return self._exactly(length)

    def close_down(self) -> None:
        """Ends the channel for both sides; a `receive` in progress raises ChannelClosed."""
        with contextlib.suppress(OSError):  # the other side has closed it already
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
