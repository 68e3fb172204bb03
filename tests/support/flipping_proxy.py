"""A TCP proxy that flips one bit of what goes through it, at a pattern that it looks for."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator


class FlippingProxy:
    """In front of one port. `up` and `down` are what to look for on the way there and back, `left` how often to flip.

    The lowest bit of the last byte of what is found changes, so that lengths and field numbers around it stay.
    """

    def __init__(self, upstream: int) -> None:
        self._upstream = upstream
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.up = self.down = b""
        self.left = self.flipped = 0
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                caller, _ = self._listener.accept()
                worker = socket.create_connection(("127.0.0.1", self._upstream))
                for one in (caller, worker):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for source, target, there in ((caller, worker, True), (worker, caller, False)):
                    threading.Thread(target=self._pump, args=(source, target, there), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, there: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 20):
                target.sendall(self._changed(data, self.up if there else self.down))
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _changed(self, data: bytes, wanted: bytes) -> bytes:
        with self._lock:
            at = data.find(wanted) if wanted and self.left else -1
            if at < 0:
                return data
            self.left -= 1
            self.flipped += 1
        changed = bytearray(data)
        changed[at + len(wanted) - 1] ^= 1
        return bytes(changed)


@contextlib.contextmanager
def flipping_proxy(upstream: int) -> Iterator[FlippingProxy]:
    proxy = FlippingProxy(upstream)
    try:
        yield proxy
    finally:
        proxy.close()
