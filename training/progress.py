"""The progress bar of a run, on a terminal, with a table above it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

Show = Callable[[Any], Table | None]  # takes a step's report


class _WithTable(Progress):
    table: Table | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        if self.table is not None:
            yield self.table
        yield from super().get_renderables()


@contextmanager
def progress_bar(
    console: Console, name: str, step: int, steps: int
) -> Iterator[Callable[[int, str, Table | None], None]]:
    """Yields what takes the steps done so far, a few words beside the bar, and the table if there is a new one."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with _WithTable(*columns, TimeRemainingColumn(), console=console) as progress:
        bar = progress.add_task(name, total=steps, completed=step)

        def update(done: int, words: str, table: Table | None) -> None:
            progress.table = table or progress.table
            progress.update(bar, completed=done, description=f"{name}: {words}")

        yield update
