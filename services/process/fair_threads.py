"""Threads that work for callers in turn: whoever has much to do holds others up by what runs, not by what waits."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Result = TypeVar("Result")
Work = Callable[[], Any]


class FairThreads:
    """As many pieces of work at once as there are threads. Any thread may use it."""

    def __init__(self, threads: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(threads, name)
        self._lock = threading.Lock()
        # The caller that was served last is last.
        self._waiting: OrderedDict[Hashable, deque[tuple[Future[Any], Work]]] = OrderedDict()

    def submit(self, caller: Hashable, work: Callable[[], Result]) -> Future[Result]:
        """Queues work; one that is cancelled before its turn is not done. Raises RuntimeError after `shutdown`."""
        future: Future[Result] = Future()
        with self._lock:
            self._pool.submit(self._serve_next)
            self._waiting.setdefault(caller, deque()).append((future, work))
        return future

    def shutdown(self) -> None:
        """Takes no more, cancels what waits, and does not wait for what runs."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            left = [future for line in self._waiting.values() for future, _ in line]
            self._waiting.clear()
        for future in left:
            future.cancel()

    def _serve_next(self) -> None:
        while (found := self._take()) is not None:
            future, work = found
            if future.set_running_or_notify_cancel():
                break
        else:
            return
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - whoever waits for it gets it
            future.set_exception(error)
        else:
            future.set_result(result)

    def _take(self) -> tuple[Future[Any], Work] | None:
        with self._lock:
            if not self._waiting:
                return None
            caller, line = next(iter(self._waiting.items()))
            found = line.popleft()
            if line:
                self._waiting.move_to_end(caller)
            else:
                del self._waiting[caller]
            return found
