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
    """Runs a coroutine in virtual time to its end; what else is left then is cancelled.

    Raises NothingLeft, and what a timer's callback has raised.
    """
    loop = VirtualLoop()
    errors: list[BaseException] = []
    task = loop.create_task(main(loop))

    def failed(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        errors.append(context.get("exception") or RuntimeError(context["message"]))
        task.cancel()

    loop.set_exception_handler(failed)
    try:
        return loop.run_until_complete(task)
    except asyncio.CancelledError:
        raise errors[0] if errors else AssertionError("nobody cancels the main task") from None
    finally:
        rest = asyncio.all_tasks(loop)
        for each in rest:
            each.cancel()
        if rest:
            loop.run_until_complete(_ended(rest))
        loop.close()


async def _ended(tasks: set[asyncio.Task[Any]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)
