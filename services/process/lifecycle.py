"""Runs a process until a signal: the first one drains it, the second one stops it at once."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import structlog

log = structlog.get_logger(__name__)


async def serve_until_signal(drain: Callable[[], Awaitable[None]], *background: Awaitable[None]) -> None:
    """Runs `background` until a signal of `ending_signals`, then `drain`; a second one cuts the drain short.

    The end of a background task ends this too; its error is raised here.
    """
    loop = asyncio.get_running_loop()
    first, second = asyncio.Event(), asyncio.Event()

    def on_signal(name: str) -> None:
        log.info("signal", name=name, forced=first.is_set())
        (second if first.is_set() else first).set()

    for number in ending_signals():
        loop.add_signal_handler(number, on_signal, number.name)
    tasks = [asyncio.ensure_future(work) for work in background]
    signalled: asyncio.Task[Any] = asyncio.create_task(first.wait())
    try:
        await asyncio.wait([signalled, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()
        forced = asyncio.create_task(second.wait())
        draining = asyncio.ensure_future(drain())
        await asyncio.wait([forced, draining], return_when=asyncio.FIRST_COMPLETED)
        if draining.done():
            draining.result()
    finally:
        for task in (*tasks, signalled):
            task.cancel()
        await asyncio.gather(*tasks, signalled, return_exceptions=True)


def ending_signals() -> list[signal.Signals]:
    """The signals that end a process in order: SIGHUP, of a terminal that is closed, too, unless it is ignored, as
    nohup has it."""
    hangup = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGTERM, signal.SIGINT, *hangup]


def exit_with_error(message: str) -> NoReturn:
    """Ends a process that cannot start: prints one line to stderr and exits with code 2."""
    print(f"caracal: {message}", file=sys.stderr, flush=True)
    sys.exit(2)
