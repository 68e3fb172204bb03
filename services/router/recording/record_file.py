"""The file of a record: lines appended whole or not at all, readable by its owner alone, and of bounded size.

Blocking I/O: for the recorder's thread. Only one process writes a file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

BLOCK = 1 << 16
FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class RecordFile:
    """A file that is opened at once. With `most_bytes` it becomes FILE.1, what was FILE.1 becomes FILE.2, and so on:
    `files` in all are kept. `opened` counts files, so that its user knows when to write a header again."""

    def __init__(self, path: Path, most_bytes: int, files: int) -> None:
        """Raises OSError: also when another process writes it."""
        self._path, self._most_bytes, self._files = path, most_bytes, files
        self._descriptor = -1
        self._size = 0
        self.opened = 0
        self._open()

    def append(self, data: bytes) -> None:
        """Goes into the file that `make_room` has left open. Raises OSError; then nothing of it is in the file."""
        self._size = os.fstat(self._descriptor).st_size
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
        except OSError:
            if len(left) < len(data):
                os.ftruncate(self._descriptor, self._size)
            raise
        self._size += len(data)

    def make_room(self, size: int) -> None:
        """Begins a new file if so many bytes more are too many for this one. Raises OSError."""
        self._follow()
        if not self._size or self._size + size <= self._most_bytes:
            return
        for number in range(self._files - 1, 0, -1):
            older = self._path if number == 1 else self._numbered(number - 1)
            if older.exists():
                older.replace(self._numbered(number))
        if self._files == 1:
            self._path.unlink(missing_ok=True)
        log.info("the record begins a new file", file=str(self._path), bytes=self._size, kept=self._files)
        self._open()

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    def _follow(self) -> None:
        """Opens the file again if someone has moved or deleted it."""
        if self._descriptor < 0:
            self._open()
            return
        try:
            now = os.stat(self._path)
        except FileNotFoundError:
            self._open()
            return
        if not os.path.samestat(now, os.fstat(self._descriptor)):
            self._open()

    def _open(self) -> None:
        self.close()
        descriptor = os.open(self._path, FLAGS, 0o600)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(errno.EINVAL, "not a regular file", str(self._path))
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OSError(errno.EBUSY, "another process writes it", str(self._path)) from None
            os.fchmod(descriptor, 0o600)
            self._size = _whole_lines(descriptor, found.st_size)
            if self._size < found.st_size:
                os.ftruncate(descriptor, self._size)
                cut = found.st_size - self._size
                log.warning("a line of the record was cut short, and is removed", file=str(self._path), bytes=cut)
        except OSError:
            with contextlib.suppress(OSError):
                os.close(descriptor)
            raise
        self._descriptor = descriptor
        self.opened += 1


def _whole_lines(descriptor: int, size: int) -> int:
    """How many bytes there are up to the last end of a line."""
    end = size
    while end:
        begin = max(0, end - BLOCK)
        found = os.pread(descriptor, end - begin, begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0
