"""Work that is proportional to a body, off the event loop: on two threads, since each that runs delays the loop's own
turn at the interpreter. What it can take is bounded by the counts that are checked before. Whatever has no such bound
belongs into a process, text_process.py."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

THREADS = 2

P = ParamSpec("P")
T = TypeVar("T")
_threads = ThreadPoolExecutor(THREADS, "body")


async def off_loop(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Returns what `work` returns, in the context of the caller. Raises what it raises."""
    context = contextvars.copy_context()
    return await asyncio.get_running_loop().run_in_executor(_threads, partial(context.run, work, *args, **kwargs))
