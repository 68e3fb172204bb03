"""What a folder of weights says about itself, in its subfolder .caracal: so that a process that is killed at any moment
leaves nothing that the next one could take for whole."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.weights.errors import BadSource, FetchError, NoSpace
from services.weights.source import RemoteFile

OWN = ".caracal"
COMPLETE, VERIFIED, PROGRESS, LOCK, PARTS = "complete.json", "verified.jsonl", "progress.json", "lock", "parts"
SLICES = "slices.json"  # there as long as files have blocks alone
GB = 1e9


@dataclass(frozen=True, slots=True)
class Complete:
    """`address`: where the files are from; `scope`: which of them. `sizes` in bytes, by name."""

    address: str
    scope: str
    sizes: dict[str, int]


class Folder:
    """One folder. Methods that write raise NoSpace, and BadSource where the folder cannot be written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.own = path / OWN

    def make(self) -> None:
        with writing(self.path):
            (self.own / PARTS).mkdir(parents=True, exist_ok=True)

    @contextmanager
    def locked(self, on_wait: Callable[[], None]) -> Iterator[None]:
        """One process at a time fetches into a folder; its end, of any kind, frees the lock."""
        with writing(self.path):
            descriptor = os.open(self.own / LOCK, os.O_CREAT | os.O_RDWR, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                on_wait()
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def locked_if_free(self) -> Iterator[bool]:
        """Whether nobody fetches into the folder, and then nobody does within the block."""
        with writing(self.path):
            descriptor = os.open(self.own / LOCK, os.O_RDWR)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                free = True
            except BlockingIOError:
                free = False
            yield free
        finally:
            os.close(descriptor)

    def complete(self) -> Complete | None:
        """What the folder has in full; None when something is missing, or has another size."""
        raw = self.state(COMPLETE)
        try:
            found = Complete(str(raw["address"]), str(raw["scope"]), {str(n): int(s) for n, s in raw["sizes"].items()})
        except (KeyError, TypeError, ValueError, AttributeError):
            return None
        return found if all(self.size(name) == size for name, size in found.sizes.items()) else None

    def mark_complete(self, done: Complete) -> None:
        self.write(COMPLETE, {"address": done.address, "scope": done.scope, "sizes": done.sizes})

    def unmark(self) -> None:
        with writing(self.path):
            (self.own / COMPLETE).unlink(missing_ok=True)

    def size(self, name: str) -> int:
        """The size of a file that is there; -1 without it."""
        try:
            return (self.path / name).stat().st_size
        except OSError:
            return -1

    def verified(self) -> dict[str, str]:
        """The versions of the files whose digests were right, by name."""
        try:
            lines = (self.own / VERIFIED).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            return {}
        found: dict[str, str] = {}
        for line in lines:
            try:
                name, version = json.loads(line)
            except (ValueError, TypeError):
                continue  # the last line of a process that was killed
            found[str(name)] = str(version)
        return found

    def note_verified(self, file: RemoteFile) -> None:
        with writing(self.path), (self.own / VERIFIED).open("a", encoding="utf-8") as out:
            out.write(json.dumps([file.name, file.version]) + "\n")

    def part(self, file: RemoteFile) -> Path:
        """Where a file lies while it is fetched: another version of it lies elsewhere."""
        key = hashlib.sha256(f"{file.name}\0{file.version}\0{file.size}".encode()).hexdigest()[:16]
        return self.own / PARTS / f"{Path(file.name).name[:64]}.{key}"

    def free_bytes(self) -> int:
        """What an ordinary user may still write to the folder's disk."""
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def progress(self) -> dict[str, Any]:
        """What the process that fetches wrote last; empty without any."""
        return self.state(PROGRESS)

    def write(self, name: str, content: dict[str, Any]) -> None:
        """Replaces a file of the folder's own as a whole."""
        partial = self.own / f"{name}.{os.getpid()}"
        with writing(self.path):
            with partial.open("w", encoding="utf-8") as out:
                out.write(json.dumps(content))
                out.flush()
                os.fsync(out.fileno())
            partial.replace(self.own / name)

    def state(self, name: str) -> dict[str, Any]:
        """A file that `write` wrote; empty when there is none, or it is no JSON object."""
        try:
            found = json.loads((self.own / name).read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


@contextmanager
def writing(path: Path, needed: int = 0) -> Iterator[None]:
    """Turns what the disk says into FetchError. `needed`: bytes that are still to come."""
    try:
        yield
    except OSError as error:
        raise disk_error(path, error, needed) from None


def disk_error(path: Path, error: OSError, needed: int = 0) -> FetchError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        more = f": {needed / GB:.3f} GB are still to come" if needed else ""
        return NoSpace(f"{path}: the disk is full{more}")
    return BadSource(f"{path}: {error.strerror or error}")
