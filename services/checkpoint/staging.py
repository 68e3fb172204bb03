"""Reads bytes of files into a device's memory.

On a GPU they go through two pinned buffers: while one is copied, the next bytes are read into the other.
"""

from __future__ import annotations

import time
from io import BufferedReader

import torch
from torch import Tensor

CHUNK_BYTES = 64 << 20


class Staging:
    """Reads file bytes into one device's memory, for one thread at a time. Counts bytes and seconds."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.bytes = 0
        self.seconds = 0.0
        self._buffers = DoubleBuffer(device, CHUNK_BYTES) if device.type == "cuda" else None

    @property
    def gigabytes_per_second(self) -> float:
        """The mean rate of all reads so far; 0 before the first byte."""
        return self.bytes / self.seconds / 1e9 if self.seconds else 0.0

    def read(self, stream: BufferedReader, count: int) -> Tensor:
        """Reads `count` bytes from the stream's position, fewer at the end of the file, into a uint8 tensor."""
        began_s = time.perf_counter()
        found = torch.empty(count, dtype=torch.uint8, device=self.device)
        got = self._buffers.read(stream, found) if self._buffers else _read_into(stream, found)
        self.bytes += got
        self.seconds += time.perf_counter() - began_s
        return found[:got]


class DoubleBuffer:
    """Copies file bytes to a device through two buffers of `chunk_bytes`, pinned for a GPU."""

    def __init__(self, device: torch.device, chunk_bytes: int) -> None:
        self._device = device
        self._cuda = device.type == "cuda"
        self._chunk_bytes = chunk_bytes
        self._buffers: list[Tensor] = []  # allocated at the first read: pinning takes long
        self._copied: list[torch.cuda.Event | None] = [None, None]

    def read(self, stream: BufferedReader, target: Tensor) -> int:
        """Fills `target` from the stream's position; returns the number of bytes, fewer at the end of the file."""
        if not self._buffers:
            self._buffers = [torch.empty(self._chunk_bytes, dtype=torch.uint8, pin_memory=self._cuda) for _ in range(2)]
        done = turn = 0
        while done < len(target):
            part = self._free(turn)[: len(target) - done]
            got = _read_into(stream, part)
            target[done : done + got].copy_(part[:got], non_blocking=True)
            self._copied[turn] = self._record_event()
            done, turn = done + got, 1 - turn
            if got < len(part):
                break
        if self._cuda:
            torch.cuda.current_stream(self._device).synchronize()  # so that the measured rate includes the copies
        return done

    def _free(self, turn: int) -> Tensor:
        """Waits until the buffer's last copy is done."""
        event = self._copied[turn]
        if event is not None:
            event.synchronize()
        return self._buffers[turn]

    def _record_event(self) -> torch.cuda.Event | None:
        if not self._cuda:
            return None
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self._device))
        return event


def _read_into(stream: BufferedReader, buffer: Tensor) -> int:
    return stream.readinto(buffer.numpy().data)
