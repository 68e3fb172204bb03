"""Work that is proportional to a body, off the event loop: on two threads, which work for callers in turn; not on more,
since each that runs delays the loop's own turn at the interpreter. What it can take is bounded by the counts that are
checked before. Whatever has no such bound belongs into a process, text_process.py."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

from services.process.fair_threads import FairThreads
from services.router.requests.admission import current_caller

THREADS = 2

P = ParamSpec("P")
T = TypeVar("T")
_threads = FairThreads(THREADS, "body")


async def off_loop(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Returns what `work` returns, in the context of the caller. Raises what it raises."""
    context = contextvars.copy_context()
    done = _threads.submit(current_caller(), partial(context.run, work, *args, **kwargs))
    return await asyncio.wrap_future(done)
