"""Tables that all processes of one machine share: one file in memory, filled by whoever comes first.

The n-gram tables of Flash-Lite are 58.5 GiB, of which a token reads 12 rows, so one copy per machine is enough. The
file lies in a folder of memory (/dev/shm), never among the model's files: a model directory that changes under a
serving worker changes no answer. Who uses a file holds a shared lock on it, so that the last user removes it; a file
left by processes that were killed is taken over, or removed by the next user of the folder when nobody holds it. Rows
that are taken over are compared with the checkpoint's, some of each table.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from services.checkpoint.errors import CheckpointError
from services.checkpoint.tables_folder import locked, own_folder, remove_unused

_ALIGN = 4096


@dataclass(frozen=True, slots=True)
class TableShape:
    """One table's rows and values per row."""

    rows: int
    width: int


Fill = Callable[[int, Tensor], None]  # (number of the table, where its rows go)
Check = Callable[[list[Tensor]], bool]  # whether tables hold the rows that they should


class SharedTables:
    """The tables of one file, read-only. When the object or the process ends, the file is removed if nobody uses it."""

    def __init__(self, path: Path, descriptor: int, tables: list[Tensor], *, made_here: bool) -> None:
        self.path, self.tables, self.made_here = path, tables, made_here
        self.close = weakref.finalize(self, _give_up, path, descriptor)

    @classmethod
    def open(
        cls, folder: Path, key: str, shapes: list[TableShape], dtype: torch.dtype, fill: Fill, check: Check
    ) -> Self:
        """Takes the file of `key` if a process has made it and it passes `check`, or makes it with `fill`.

        `key` names the content: equal keys, equal tables. Raises CheckpointError when the folder cannot be used or
        other workers use tables that do not pass, and what `fill` raises.
        """
        sizes = [shape.rows * shape.width * dtype.itemsize for shape in shapes]
        offsets = [0, *accumulate(-(-size // _ALIGN) * _ALIGN for size in sizes)]
        name = hashlib.sha256(f"{key} {shapes} {dtype}".encode()).hexdigest()[:32]
        try:
            own = own_folder(folder)
            path = own / name
            with locked(own / "lock"):
                remove_unused(own, path)
                descriptor = _taken(path, offsets[-1])
                if descriptor is not None:
                    tables = [_view(path, offset, shape, dtype) for offset, shape in zip(offsets, shapes, strict=False)]
                    if check(tables):
                        return cls(path, descriptor, tables, made_here=False)
                    _discard(path, descriptor)
                descriptor = _made(path, offsets, shapes, dtype, fill)
        except OSError as error:
            raise CheckpointError(f"{folder}: the n-gram tables cannot be put here: {error.strerror}") from None
        tables = [_view(path, offset, shape, dtype) for offset, shape in zip(offsets, shapes, strict=False)]
        return cls(path, descriptor, tables, made_here=True)


def _give_up(path: Path, descriptor: int) -> None:
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    os.close(descriptor)


def _discard(path: Path, descriptor: int) -> None:
    """Removes a file whose rows are not the checkpoint's. Raises CheckpointError when others use it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        why = "other workers use n-gram tables that are not the checkpoint's: its files were changed, end those workers"
        raise CheckpointError(f"{path}: {why}") from None
    path.unlink(missing_ok=True)
    os.close(descriptor)


def _taken(path: Path, size: int) -> int | None:
    """A descriptor of the finished file, with a shared lock; None where there is none that can be trusted."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    found = os.fstat(descriptor)
    own = found.st_uid == os.getuid() and not stat.S_IMODE(found.st_mode) & 0o022
    regular = stat.S_ISREG(found.st_mode)
    if own and regular and found.st_size == size and found.st_nlink:  # 0: its last user removed it in the meantime
        return descriptor
    os.close(descriptor)
    return None


def _made(path: Path, offsets: list[int], shapes: list[TableShape], dtype: torch.dtype, fill: Fill) -> int:
    size, free = offsets[-1], os.statvfs(path.parent)
    if size > free.f_bavail * free.f_frsize:
        gib = f"{_amount(size)}, {_amount(free.f_bavail * free.f_frsize)} are free"
        raise CheckpointError(f"{path.parent}: the n-gram tables take {gib}: give CARACAL_TABLES_DIR a larger folder")
    partial = path.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size)  # or a full folder would end the process with SIGBUS
        for number, (offset, shape) in enumerate(zip(offsets, shapes, strict=False)):
            fill(number, _view(partial, offset, shape, dtype, writable=True))
        os.fsync(descriptor)  # a folder on a disk could lose the rows of a finished file with its power
        os.fchmod(descriptor, 0o400)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        partial.rename(path)
    except BaseException:
        os.close(descriptor)
        partial.unlink(missing_ok=True)
        raise
    return descriptor


def _amount(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def _view(path: Path, offset: int, shape: TableShape, dtype: torch.dtype, *, writable: bool = False) -> Tensor:
    """[rows, width]. Read-only views are private mappings: their pages are shared, since nobody writes to them."""
    begin, count = offset // dtype.itemsize, shape.rows * shape.width
    whole = torch.from_file(str(path), shared=writable, size=begin + count, dtype=dtype)
    return whole[begin:].view(shape.rows, shape.width)
