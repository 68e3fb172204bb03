"""How tokens and endings get from the engine's thread to their receivers."""

from __future__ import annotations

import asyncio
import ctypes
import os
import threading
from collections import deque
from collections.abc import Callable

from services.attention_worker.engine.sequence import Emit, Ending, TokenOut

Delivery = tuple[Emit, list[TokenOut], Ending | None]
Deliver = Callable[[list[Delivery]], None]

_DRAIN_BYTES = 4096

# Functions of a PyDLL keep the GIL. os.write gives it up, and the event loop that it wakes would take it: the engine's
# next step would begin when all of this step's tokens are on their way. The loop gets it when that step's layers run.
_write = ctypes.PyDLL(None).write
_write.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t)
_write.restype = ctypes.c_ssize_t


def deliver_here(deliveries: list[Delivery]) -> None:
    """Calls every receiver on the calling thread."""
    for emit, tokens, ending in deliveries:
        emit(tokens, ending)


class LoopDelivery:
    """A `Deliver` that calls every receiver on an event loop, with one wake-up of that loop per step.

    Made and closed on the loop; called by any thread, which keeps the GIL. After `close` nothing is delivered.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[list[Delivery]] = deque()
        self._closing, self._closed = threading.Lock(), False  # an engine that outlives the loop may still call
        self._readable, self._writable = os.pipe()
        for descriptor in (self._readable, self._writable):
            os.set_blocking(descriptor, False)
        loop.add_reader(self._readable, self._take)

    def __call__(self, deliveries: list[Delivery]) -> None:
        with self._closing:
            if not self._closed:
                self._waiting.append(deliveries)
                _write(self._writable, b"\0", 1)  # when the pipe is full, the loop is being woken already

    def close(self) -> None:
        with self._closing:
            self._closed = True
        self._loop.remove_reader(self._readable)
        self._waiting.clear()
        for descriptor in (self._readable, self._writable):
            os.close(descriptor)

    def _take(self) -> None:
        os.read(self._readable, _DRAIN_BYTES)
        while self._waiting:
            deliver_here(self._waiting.popleft())
