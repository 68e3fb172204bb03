"""Fetches a file: goes on where an earlier process was killed, compares the digest, and gives it its name last."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from services.weights.digests import Hasher, hasher
from services.weights.errors import Damaged, FetchError, SourceUnavailable
from services.weights.folder import Folder, writing
from services.weights.progress import Progress
from services.weights.source import RemoteFile, Source

log = structlog.get_logger(__name__)

HASH_BYTES = 8 << 20
FETCHES = 2  # of a file whose digest is wrong


class Stopped(FetchError):
    """Another file's error ends this one, too."""


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a source is tried that gives no byte, and how long the pauses in between are; each doubles the last."""

    tries: int = 10
    first_s: float = 1.0
    longest_s: float = 60.0

    def pause_s(self, failures: int) -> float:
        return min(self.longest_s, self.first_s * 2.0 ** min(failures - 1, 20))


class Transfer:
    """Fetches files of one source into one folder; threads may share it."""

    def __init__(self, source: Source, folder: Folder, progress: Progress, retry: Retry) -> None:
        self._source, self._folder, self._progress, self._retry = source, folder, progress, retry
        self._stop = threading.Event()

    def stop(self) -> None:
        """Ends the transfers of all threads at their next piece."""
        self._stop.set()

    def run(self, file: RemoteFile) -> None:
        """Raises FetchError. What has come by then stays, unless it is damaged."""
        part, target = self._folder.part(file), self._folder.path / file.name
        for fetch in range(1, FETCHES + 1):
            found = self._fetch(file, part)
            if found.matches():
                break
            with writing(self._folder.path):
                part.unlink()
            self._progress.add(-file.size)
            if fetch == FETCHES:
                raise Damaged(
                    f"{file.name}: its bytes have {found.found()}, not {file.digest} as {self._source.address} says;"
                    f" it was fetched {FETCHES} times and is not used"
                )
            log.warning("a file is damaged and is fetched again", file=file.name, digest=str(file.digest))
        with writing(self._folder.path):
            target.parent.mkdir(parents=True, exist_ok=True)
            part.replace(target)
            _sync_names(target.parent)
        self._folder.note_verified(file)
        self._progress.file_done()

    def _fetch(self, file: RemoteFile, part: Path) -> Hasher:
        """Fetches what the part lacks; returns the hash of all of it."""
        failures, found = 0, hasher(file.digest, file.size)
        with writing(self._folder.path, self._progress.left), part.open("ab") as out:
            there = out.tell()
            if there > file.size:
                out.truncate(there := 0)
            hash_file(part, found)
            while there < file.size:
                with _unavailable_apart() as kept:
                    for piece in self._source.read(file, there, file.size):
                        if self._stop.is_set():
                            raise Stopped(file.name)
                        out.write(piece)
                        found.update(piece)
                        there += len(piece)
                        failures = 0
                        self._progress.add(len(piece))
                if there < file.size:
                    failures += 1
                    self._pause(file, failures, kept[0] if kept else SourceUnavailable(f"{file.name}: broke off"))
            out.flush()
            os.fsync(out.fileno())
        return found

    def _pause(self, file: RemoteFile, failures: int, error: SourceUnavailable) -> None:
        if failures >= self._retry.tries:
            raise SourceUnavailable(f"{error}; no byte came in {failures} tries")
        pause_s = self._retry.pause_s(failures)
        log.warning("a fetch broke off and goes on", file=file.name, error=str(error), pause_s=pause_s)
        if self._stop.wait(pause_s):
            raise Stopped(file.name)


def hash_file(path: Path, into: Hasher) -> None:
    """Raises OSError."""
    with path.open("rb", buffering=0) as raw:
        while piece := raw.read(HASH_BYTES):
            into.update(piece)


@contextmanager
def _unavailable_apart() -> Iterator[list[SourceUnavailable]]:
    """Keeps the error of a source that may be tried again; every other one goes through."""
    kept: list[SourceUnavailable] = []
    try:
        yield kept
    except SourceUnavailable as error:
        kept.append(error)


def _sync_names(folder: Path) -> None:
    """So that a name outlives a loss of power, as the bytes do."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
