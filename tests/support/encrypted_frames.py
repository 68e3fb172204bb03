"""Encrypted native frames read and written in Python with the package cryptography, from what
services/transport/native/cipher.h and frame.h say alone; and a proxy that sees only their bytes."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable

from caracal_proto import expert_pb2
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from support.native_frames import HEADER_BYTES, HELLO, Frame, exactly, parsed

TAG_BYTES = 16


class Direction:
    """The messages of one direction of a session, under its first key."""

    def __init__(self, secret: bytes) -> None:
        self._key = AESGCM(HKDFExpand(SHA256(), 32, b"caracal key").derive(secret))
        self.number = 0

    def sealed(self, data: bytes, also: bytes | None = None) -> bytes:
        return self._key.encrypt(self._nonce(), data, also)

    def opened(self, message: bytes) -> bytes:
        """Raises InvalidTag."""
        return self._key.decrypt(self._nonce(), message, None)

    def _nonce(self) -> bytes:
        self.number += 1
        return struct.pack("<QI", self.number - 1, 0)


class Caller:
    """The caller's side of one session over TCP, which has been welcomed."""

    def __init__(self, place: expert_pb2.OpenReply) -> None:
        self._out, self._in = Direction(place.keys[:32]), Direction(place.keys[32:])
        self.socket = socket.create_connection((place.host, place.port), 5)
        hello = Frame(kind=HELLO, session=place.session, body=place.token).sealed()
        tag = self._out.sealed(b"", place.token)
        whole = len(place.token) + len(tag)
        self.socket.sendall(Frame(**{**vars(hello), "body_bytes": whole, "body": place.token + tag}).encoded())
        self.welcome = self.read()

    def wire(self, frame: Frame) -> bytes:
        """The bytes of the next frame."""
        plain = frame.encoded()
        header, body = plain[:HEADER_BYTES], plain[HEADER_BYTES:]
        return self._out.sealed(header) + (self._out.sealed(body) if body else b"")

    def read(self) -> Frame:
        """Raises FramesEnded, InvalidTag."""
        frame = parsed(self._in.opened(exactly(self.socket, HEADER_BYTES + TAG_BYTES)))
        if not frame.body_bytes:
            return frame
        body = self._in.opened(exactly(self.socket, frame.body_bytes + TAG_BYTES))
        return Frame(**{**vars(frame), "body": body})


class ByteProxy:
    """Stands between callers and a worker's native sessions, and keeps what passes. `change` gets each piece."""

    def __init__(self, change: Callable[[bool, bytes], bytes]) -> None:
        """`change(to_worker, data)` returns what to pass on."""
        self._change = change
        self.seen = b""

    def cover(self, place: expert_pb2.OpenReply) -> expert_pb2.OpenReply:
        """The same place, reached through this proxy."""
        listener = socket.create_server(("127.0.0.1", 0))
        covered = expert_pb2.OpenReply()
        covered.CopyFrom(place)
        covered.port, covered.unix_name = listener.getsockname()[1], "not-here"
        threading.Thread(target=self._serve, args=(listener, (place.host, place.port)), daemon=True).start()
        return covered

    def _serve(self, listener: socket.socket, upstream: tuple[str, int]) -> None:
        listener.settimeout(10)
        with listener, contextlib.suppress(OSError):
            caller, _ = listener.accept()
            worker = socket.create_connection(upstream)
            back = threading.Thread(target=self._pump, args=(worker, caller, False), daemon=True)
            back.start()
            self._pump(caller, worker, True)
            back.join()
            for one in (caller, worker):
                one.close()

    def _pump(self, source: socket.socket, target: socket.socket, to_worker: bool) -> None:
        source.settimeout(None)
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self.seen += data
                target.sendall(self._change(to_worker, data))
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
