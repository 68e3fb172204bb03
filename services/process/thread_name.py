"""Names of threads as the system shows them, in `top -H` and /proc; Python tells it none before 3.14."""

from __future__ import annotations

import ctypes
import sys

PR_SET_NAME = 15


def name_this_thread(name: str) -> None:
    """Names the calling thread; the system keeps 15 bytes."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode(), 0, 0, 0)
