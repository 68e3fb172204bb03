"""The progress bar of a run, on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from services.cli.load.outcome import Outcome


@contextmanager
def preparing(shown: bool = True) -> Iterator[None]:
    """Says that prompts are being made, on stderr where that is a terminal."""
    if not shown or not sys.stderr.isatty():
        yield
        return
    with Console(stderr=True).status("making prompts"):
        yield


@contextmanager
def watch(total: int, shown: bool = True) -> Iterator[Callable[[Outcome], None]]:
    """Yields a function to call with each outcome; on stderr, and only where that is a terminal."""
    if not shown or not sys.stderr.isatty():
        yield lambda outcome: None
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("waiting for the first answer", total=total)
        started, done, failed, tokens = time.perf_counter(), 0, 0, 0

        def count(outcome: Outcome) -> None:
            nonlocal done, failed, tokens
            done, failed = done + 1, failed + bool(outcome.error)
            tokens += 0 if outcome.error else outcome.output_tokens
            rate = tokens / max(time.perf_counter() - started, 1e-9)
            bar.update(
                task, completed=done, description=f"{rate:.0f} tokens/s" + (f", {failed} failed" if failed else "")
            )

        yield count
