"""Startup, main loop, drain, stop: the first signal drains, the second forces."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import structlog

log = structlog.get_logger(__name__)


async def serve_until_signal(drain: Callable[[], Awaitable[None]], *background: Awaitable[None]) -> None:
    """Runs `background` until SIGTERM or SIGINT, then `drain`; a second signal cuts the drain short.

    A background task that ends by itself or fails ends the process's service too: its error is raised here.
    """
    loop = asyncio.get_running_loop()
    first, second = asyncio.Event(), asyncio.Event()

    def on_signal(name: str) -> None:
        log.info("signal", name=name, forced=first.is_set())
        (second if first.is_set() else first).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number.name)
    tasks = [asyncio.ensure_future(work) for work in background]
    told: asyncio.Task[Any] = asyncio.create_task(first.wait())
    try:
        await asyncio.wait([told, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()
        forced = asyncio.create_task(second.wait())
        draining = asyncio.ensure_future(drain())
        await asyncio.wait([forced, draining], return_when=asyncio.FIRST_COMPLETED)
        if draining.done():
            draining.result()
    finally:
        for task in (*tasks, told):
            task.cancel()
        await asyncio.gather(*tasks, told, return_exceptions=True)


def refuse(message: str) -> NoReturn:
    """Ends a process that cannot start: one clear line, exit code 2."""
    print(f"caracal: {message}", file=sys.stderr, flush=True)
    sys.exit(2)
