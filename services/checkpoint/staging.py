"""Bytes of files into a device's memory.

On a GPU through two pinned buffers: while one is copied, the next bytes are read into the other.
"""

from __future__ import annotations

import time
from io import BufferedReader

import torch
from torch import Tensor

CHUNK_BYTES = 64 << 20


class Staging:
    """The way to one device, for one thread at a time. Counts what went over it.

    `chunk_bytes` above 0 on a CPU goes through buffers too, which only tests want.
    """

    def __init__(self, device: torch.device, chunk_bytes: int = 0) -> None:
        self.device = device
        self.bytes = 0
        self.seconds = 0.0
        self._cuda = device.type == "cuda"
        self._chunk = chunk_bytes or (CHUNK_BYTES if self._cuda else 0)
        self._buffers: list[Tensor] = []  # made when they are first needed: pinning takes long
        self._copied: list[torch.cuda.Event | None] = [None, None]

    @property
    def gigabytes_per_second(self) -> float:
        """Of everything so far; 0 before the first byte."""
        return self.bytes / self.seconds / 1e9 if self.seconds else 0.0

    def read(self, stream: BufferedReader, count: int) -> Tensor:
        """uint8 on the device: `count` bytes from where the stream stands, fewer when the file ends before."""
        began_s = time.perf_counter()
        found = torch.empty(count, dtype=torch.uint8, device=self.device)
        got = self._staged(stream, found) if self._chunk else _into(stream, found)
        self.bytes += got
        self.seconds += time.perf_counter() - began_s
        return found[:got]

    def _staged(self, stream: BufferedReader, found: Tensor) -> int:
        if not self._buffers:
            self._buffers = [torch.empty(self._chunk, dtype=torch.uint8, pin_memory=self._cuda) for _ in range(2)]
        done = turn = 0
        while done < len(found):
            part = self._free(turn)[: len(found) - done]
            got = _into(stream, part)
            found[done : done + got].copy_(part[:got], non_blocking=True)
            self._copied[turn] = self._mark()
            done, turn = done + got, 1 - turn
            if got < len(part):
                break
        if self._cuda:
            torch.cuda.current_stream(self.device).synchronize()  # counted in the rate: it is there only now
        return done

    def _free(self, turn: int) -> Tensor:
        """A buffer whose last copy has been made."""
        event = self._copied[turn]
        if event is not None:
            event.synchronize()
        return self._buffers[turn]

    def _mark(self) -> torch.cuda.Event | None:
        if not self._cuda:
            return None
        event = torch.cuda.Event()  # type: ignore[no-untyped-call] # torch leaves it untyped
        event.record(torch.cuda.current_stream(self.device))
        return event


def _into(stream: BufferedReader, buffer: Tensor) -> int:
    return stream.readinto(buffer.numpy().data)
