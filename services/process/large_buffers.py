"""How the C library gives memory back."""

from __future__ import annotations

import ctypes
import sys

M_MMAP_THRESHOLD = -3  # of malloc.h
LARGE_BYTES = 4 << 20


def give_back_large_buffers() -> None:
    """Makes buffers of LARGE_BYTES and more go back to the system when they are freed.

    By default glibc keeps them from the first one that was freed on, for each of many threads: a process that answers
    large calls at once then has several times what they took.
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
