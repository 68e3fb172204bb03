"""Waits of the engine's thread for replies that come through futures."""

from __future__ import annotations

import time
from concurrent.futures import Future
from typing import TypeVar

PIECE_S = 0.2  # of a wait: a thread that waits in one piece looks as if it stood still (process/thread_watch.py)

T = TypeVar("T")


def result_of(future: Future[T], timeout_s: float) -> T:
    """The future's result. Raises TimeoutError when it has none after `timeout_s`, and what it failed with."""
    until = time.monotonic() + timeout_s
    while (left := until - time.monotonic()) > PIECE_S:
        try:
            return future.result(PIECE_S)
        except TimeoutError:
            if future.done():
                raise
    return future.result(max(0.0, left))
