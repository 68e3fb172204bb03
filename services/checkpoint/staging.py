"""Reads bytes of files into a device's memory, and makes their checksum on the way.

On a GPU they go through two pinned buffers: while one is copied, the next bytes are read into the other.
"""

from __future__ import annotations

import time
from io import BufferedReader

import torch
from caracal_kernels import crc32
from torch import Tensor

CHUNK_BYTES = 64 << 20
READ_BYTES = 1 << 20  # at a time: they are still in the CPU's cache when their checksum is made


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

    def read(self, stream: BufferedReader, count: int) -> tuple[Tensor, int]:
        """Reads `count` bytes from the stream's position, fewer at the end of the file, into a uint8 tensor.

        Returns them with the CRC-32 of what came from the file.
        """
        began_s = time.perf_counter()
        found = torch.empty(count, dtype=torch.uint8, device=self.device)
        got, checksum = self._buffers.read(stream, found) if self._buffers else _read_into(stream, found)
        self.bytes += got
        self.seconds += time.perf_counter() - began_s
        return found[:got], checksum


class DoubleBuffer:
    """Copies file bytes to a device through two buffers of `chunk_bytes`, pinned for a GPU."""

    def __init__(self, device: torch.device, chunk_bytes: int) -> None:
        self._device = device
        self._cuda = device.type == "cuda"
        self._chunk_bytes = chunk_bytes
        self._buffers: list[Tensor] = []  # allocated at the first read: pinning takes long
        self._copied: list[torch.cuda.Event | None] = [None, None]

    def read(self, stream: BufferedReader, target: Tensor) -> tuple[int, int]:
        """Fills `target` from the stream's position; returns how many bytes, fewer at the end of the file, and their
        CRC-32.
        """
        if not self._buffers:
            self._buffers = [torch.empty(self._chunk_bytes, dtype=torch.uint8, pin_memory=self._cuda) for _ in range(2)]
        done = turn = checksum = 0
        while done < len(target):
            part = self._free(turn)[: len(target) - done]
            got, checksum = _read_into(stream, part, checksum)
            target[done : done + got].copy_(part[:got], non_blocking=True)
            self._copied[turn] = self._record_event()
            done, turn = done + got, 1 - turn
            if got < len(part):
                break
        if self._cuda:
            torch.cuda.current_stream(self._device).synchronize()  # so that the measured rate includes the copies
        return done, checksum

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


def _read_into(stream: BufferedReader, buffer: Tensor, checksum: int = 0) -> tuple[int, int]:
    whole, done = buffer.numpy().data, 0
    while done < len(whole):
        piece = whole[done : done + READ_BYTES]
        got = stream.readinto(piece)
        checksum = crc32(piece[:got], checksum)
        done += got
        if got < len(piece):
            break
    return done, checksum
