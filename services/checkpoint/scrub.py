"""Compares weights in memory with what they were when they were loaded, round after round, on a thread of its own.

A bit that flips in memory changes every answer that the weight takes part in, silently. A round takes `round_s` for
all bytes, or longer where that would cost more than SHARE of the machine. Weights on a GPU are not read.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import NamedTuple

import structlog
from caracal_kernels import crc32
from torch import Tensor, uint8

log = structlog.get_logger(__name__)

PIECE_BYTES = 8 << 20  # between two pauses: under a millisecond
SHARE = 0.02  # of the cores that this process may use; at most half of one
IDLE_S = 1.0  # without any weights


class Region(NamedTuple):
    """Tensors that do not change, by a name for messages, and the CRC-32 of their bytes."""

    name: str
    tensors: tuple[Tensor, ...]
    checksum: int

    @property
    def bytes(self) -> int:
        return sum(each.nbytes for each in self.tensors)


def regions_of(parts: Iterable[tuple[str, object]]) -> list[Region]:
    """One region for each part, by its name, as the tensors in its dataclasses, lists and tuples are now.

    A tensor that is in several parts belongs to the first one.
    """
    seen, found = set[tuple[int, int]](), []
    for name, weights in parts:
        tensors = []
        for each in tensors_in(weights):
            place = each.data_ptr(), each.nbytes
            if place not in seen:
                seen.add(place)
                tensors.append(each)
        found.append(Region(name, tuple(tensors), memory_checksum(tensors)))
    return found


def tensors_in(weights: object) -> Iterator[Tensor]:
    """The contiguous tensors in host memory."""
    if isinstance(weights, Tensor):
        if weights.device.type == "cpu" and weights.is_contiguous():
            yield weights
    elif isinstance(weights, list | tuple):
        for each in weights:
            yield from tensors_in(each)
    elif is_dataclass(weights):
        for field in fields(weights):
            yield from tensors_in(getattr(weights, field.name))


def memory_checksum(tensors: Iterable[Tensor]) -> int:
    checksum = 0
    for each in tensors:
        checksum = crc32(_bytes(each), checksum)
    return checksum


@dataclass(slots=True)
class ScrubCounters:
    """What one process's rounds have come to."""

    rounds: int = 0  # that were completed
    failures: int = 0  # weights that could not be compared, or read again


class Scrub:
    """One process's rounds. `regions`: what is in memory, which may change at any time. `found` is called, on the
    thread, with one whose bytes have changed."""

    def __init__(
        self,
        regions: Mapping[tuple[int, int], Region],
        found: Callable[[Region], None],
        round_s: float,
        counters: ScrubCounters | None = None,
    ) -> None:
        self._regions, self._found, self._round_s = regions, found, round_s
        self._share = min(0.5, SHARE * len(os.sched_getaffinity(0)))
        self.counters = counters if counters is not None else ScrubCounters()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scrub", daemon=True)

    def start(self) -> None:
        """Starts the rounds; with `round_s` 0 there are none."""
        if self._round_s:
            self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            keys = list(self._regions)
            total = sum(region.bytes for key in keys if (region := self._regions.get(key)) is not None)
            for key in keys:
                try:
                    self._look(key, total)  # holds no other region: one that is dropped meanwhile frees its memory
                except Exception as error:
                    self.counters.failures += 1
                    log.error("weights could not be compared", key=key, exc_info=error)
                    self._stopping.wait(IDLE_S)
            if self._stopping.is_set():
                return
            self.counters.rounds += 1
            if not total:
                self._stopping.wait(IDLE_S)

    def _look(self, key: tuple[int, int], total: int) -> None:
        region = self._regions.get(key)
        if region is not None and self._checksum(region, total) not in (None, region.checksum):
            log.error("weights have changed in memory", weights=region.name)
            self._found(region)

    def _checksum(self, region: Region, total: int) -> int | None:
        """None when the rounds end."""
        checksum = 0
        for tensor in region.tensors:
            data = _bytes(tensor)
            for begin in range(0, len(data), PIECE_BYTES):
                piece, began_s = data[begin : begin + PIECE_BYTES], time.perf_counter()
                checksum = crc32(piece, checksum)
                took_s = time.perf_counter() - began_s
                if self._stopping.wait(
                    max(len(piece) / total * self._round_s - took_s, took_s * (1 / self._share - 1))
                ):
                    return None
        return checksum


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().view(-1).view(uint8).numpy().data if tensor.numel() else memoryview(b"")
