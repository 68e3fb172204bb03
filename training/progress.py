"""The progress bar of a run, on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@contextmanager
def progress_bar(console: Console, name: str, step: int, steps: int) -> Iterator[Callable[[int, str], None]]:
    """Yields what takes the steps done so far and a few words beside the bar."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        bar = progress.add_task(name, total=steps, completed=step)
        yield lambda done, words: progress.update(bar, completed=done, description=f"{name}: {words}")
