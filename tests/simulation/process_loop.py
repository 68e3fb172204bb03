"""An event loop of one run of a simulated process: its timers are the run's, so a kill drops them, and a stop delays
them. Asynchronous code of the product runs on it as it is."""

from __future__ import annotations

import asyncio
import contextvars
from asyncio.events import _get_running_loop, _set_running_loop
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVarTuple

from simulation.timeline import Process

Ts = TypeVarTuple("Ts")


class ProcessLoop(asyncio.AbstractEventLoop):
    """`clock`: what its time is. Knows neither threads nor sockets. What a callback or a task raises goes on to whoever
    runs the timeline."""

    def __init__(self, process: Process, clock: Callable[[], float]) -> None:
        self._process, self._clock = process, clock
        self._tasks: dict[asyncio.Task[Any], None] = {}

    def do(self, act: Callable[[], object]) -> None:
        """Calls `act` as this loop does: tasks that it begins run here."""
        before = _get_running_loop()
        _set_running_loop(self)
        try:
            act()
        finally:
            _set_running_loop(before)

    def close(self) -> None:
        """Ends all tasks: their run is over."""
        tasks, self._tasks = self._tasks, {}
        for task in tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            coroutine: Any = task.get_coro()
            self.do(coroutine.close)

    def time(self) -> float:
        return self._clock()

    def get_debug(self) -> bool:
        return False

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self, coro: Any, *, name: str | None = None, context: contextvars.Context | None = None
    ) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, name=name, context=context)
        self._tasks[task] = None
        task.add_done_callback(self._end)
        return task

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._process.after(0.0, partial(self._run, handle))
        return handle

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(self.time() + delay, callback, args, self, context)
        self._process.after(max(0.0, delay), partial(self._run, handle))
        return handle

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_later(when - self.time(), callback, *args, context=context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is not None:
            raise error

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It stays where it is, and does nothing."""

    def _run(self, handle: asyncio.Handle) -> None:
        if not handle.cancelled():
            self.do(handle._run)

    def _end(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error


def loop_of(process: Process, clock: Callable[[], float]) -> ProcessLoop:
    """A loop of the process's run, without what loops of sockets, threads and children have."""
    return ProcessLoop(process, clock)  # type: ignore[abstract]
