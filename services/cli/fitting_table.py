"""A table that leaves out its less important columns where the terminal is narrow. Nothing that it shows is cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Column, Table
from rich.text import Text

WIDE = 10_000


def folded(*headers: str) -> tuple[Column, ...]:
    """Columns whose words are broken where they do not fit, and never cut."""
    return tuple(Column(header, overflow="fold") for header in headers)


@dataclass(frozen=True)
class FittingTable:
    """Cells as text, and the columns that may be left out, the least important one first."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    optional: Sequence[str] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        left_out: list[str] = []
        wide = options.update(max_width=WIDE)
        table = self._table(left_out)
        while console.measure(table, options=wide).maximum > options.max_width and len(left_out) < len(self.optional):
            left_out.append(self.optional[len(left_out)])
            table = self._table(left_out)
        yield table
        if left_out:
            yield Text(f"left out on {options.max_width} columns: {', '.join(left_out)}")

    def _table(self, left_out: Sequence[str]) -> Table:
        kept = [number for number, name in enumerate(self.columns) if name not in left_out]
        headers = folded(*(self.columns[number] for number in kept))
        table = Table(*headers, box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, collapse_padding=True)
        for row in self.rows:
            table.add_row(*(Text(row[number], overflow="fold") for number in kept))
        return table
