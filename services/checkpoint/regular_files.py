"""Opens a checkpoint's files: regular ones alone. A pipe would never end, and a device neither."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

MOST_BYTES = 256 << 20  # of a file that is read whole; the tokenizers of large vocabularies have some ten megabytes


def open_regular(path: Path) -> BinaryIO:
    """Opens a file to be read, without a buffer. Raises OSError, also for what is no regular file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe is opened at once, too
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return open(descriptor, "rb", buffering=0)
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    raise OSError(errno.EINVAL, "not a regular file")


def read_whole(path: Path, most: int = MOST_BYTES) -> bytes:
    """Returns the content of a regular file. Raises OSError, also for one of more than `most` bytes."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise OSError(errno.EFBIG, f"it has {size} bytes, more than {most}")
        return file.read(most)
