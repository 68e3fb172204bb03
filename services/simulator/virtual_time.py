"""An event loop whose time jumps to the next timer: asynchronous policies run on it as they are.

Nothing waits and nothing is measured, so the same coroutines with the same seed do the same in the same order.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class NothingLeft(RuntimeError):
    """Whoever still waits would wait for ever."""


class _Jump(selectors.SelectSelector):
    """Where the loop would sleep for so many seconds, its clock advances by them."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise NothingLeft("no timer is set, and nobody can wake those who wait")
        self.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Seconds begin at 0. It knows neither threads nor sockets."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        return self._jump.now


def run(main: Callable[[VirtualLoop], Coroutine[Any, Any, Result]]) -> Result:
    """Runs a coroutine in virtual time to its end; what else is left then is cancelled. Raises NothingLeft."""
    loop = VirtualLoop()
    try:
        result = loop.run_until_complete(main(loop))
        rest = asyncio.all_tasks(loop)
        for task in rest:
            task.cancel()
        if rest:
            loop.run_until_complete(_ended(rest))
        return result
    finally:
        loop.close()


async def _ended(tasks: set[asyncio.Task[Any]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)
