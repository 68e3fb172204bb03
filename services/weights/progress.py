"""How far a fetch is: lines in the log, and a file for those who wait for it."""

from __future__ import annotations

import threading
import time

import structlog

from services.weights.folder import GB, PROGRESS, Folder

log = structlog.get_logger(__name__)

LOG_S, WRITE_S = 10.0, 2.0


class Progress:
    """Counts bytes, from any thread. The rate is that of the bytes which came, and not of those that were there."""

    def __init__(self, folder: Folder, address: str, files: int, total: int, there: int) -> None:
        self._folder, self._address = folder, address
        self._files, self._total, self._there = files, total, there
        self._done, self._done_files = there, 0
        self._lock = threading.Lock()
        self._began = self._logged = time.monotonic()
        self._written = 0.0

    @property
    def left(self) -> int:
        """Bytes still to come."""
        return self._total - self._done

    def add(self, count: int) -> None:
        """Counts bytes; a file that has to be fetched again takes its own back."""
        with self._lock:
            self._done += count
            now = time.monotonic()
            if now - self._written > WRITE_S:
                self._written = now
                self._folder.write(PROGRESS, {**self._figures(now), "at": time.time(), "address": self._address})
            if now - self._logged > LOG_S:
                self._logged = now
                log.info("fetching weights", **self._figures(now))

    def file_done(self) -> None:
        with self._lock:
            self._done_files += 1

    def figures(self) -> dict[str, float | int]:
        """As they are logged: GB of decimal bytes, MB a second since the start, minutes left at that rate."""
        with self._lock:
            return self._figures(time.monotonic())

    def _figures(self, now: float) -> dict[str, float | int]:
        rate = (self._done - self._there) / max(now - self._began, 1e-3)
        left_min = self.left / rate / 60 if rate > 0 else 0.0
        return {
            "files": self._done_files,
            "of_files": self._files,
            "gb": round(self._done / GB, 3),
            "of_gb": round(self._total / GB, 3),
            "mb_per_s": round(rate / 1e6, 1),
            "left_min": round(left_min, 1),
        }
