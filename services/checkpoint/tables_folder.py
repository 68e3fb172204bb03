"""The folder in memory where a user's processes share tables, and what nobody uses any longer in it. Without torch."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from services.checkpoint.errors import CheckpointError


def _of_this_user(folder: Path) -> Path:
    return folder / f"caracal-tables-{os.getuid()}"


def own_folder(folder: Path) -> Path:
    """A folder of this user's within one that others may write to, as /dev/shm is. Raises CheckpointError, OSError."""
    own = _of_this_user(folder)
    with contextlib.suppress(FileExistsError):
        own.mkdir(mode=0o700)
    found = own.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o022:
        raise CheckpointError(f"{own}: is not a folder of this user's that only this user may write to")
    return own


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process of this user at a time; the lock's file stays, empty."""
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def remove_unused(own: Path, keep: Path | None = None) -> bool:
    """Removes finished and unfinished files, but for `keep`, that no process holds; returns whether none are left."""
    left = False
    for path in own.iterdir():
        if path == keep or path.name == "lock":
            continue
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            finally:
                os.close(descriptor)
        except OSError:
            left = True
    return not left


def remove_unused_tables(folder: Path) -> bool:
    """The same for the tables of this user's processes in `folder`, after those that may have been killed."""
    own = _of_this_user(folder)
    try:
        with locked(own / "lock"):
            return remove_unused(own)
    except OSError:  # there are none, or they are not to be touched
        return True
