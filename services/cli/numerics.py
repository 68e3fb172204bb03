"""`caracal status --numerics`: the parts of each numerics class that workers report, side by side."""

from __future__ import annotations

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from services.cli.fitting_table import folded
from services.membership.numerics_class import fits
from services.membership.overview import Overview
from services.membership.record import WorkerRecord


def render_numerics(overview: Overview, name: str) -> Group:
    """One column for each class, its workers above, and a mark at the parts in which classes differ."""
    classes = overview.numerics_classes
    workers = [record for record in overview.workers if record.numerics_class]
    by_class = {one: [record for record in workers if fits(one, record.numerics_class)] for one in classes}
    table = Table(*folded("part", *classes, ""), box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.add_row("workers", *(", ".join(record.worker_id for record in by_class[one]) for one in classes), "")
    for part in parts_of(overview.workers):
        values = [_value(by_class[one], part) for one in classes]
        table.add_row(part, *values, "differs" if len(set(values)) > 1 else "")
    note = "answers are interchangeable bit for bit within a class, and only there"
    return Group(Text(name), Text(note), table) if classes else Group(Text(name), Text("no worker reports a class"))


def _value(records: list[WorkerRecord], part: str) -> str:
    """What the workers of a class say of a part: expert workers have no attention."""
    return next((record.numerics[part] for record in records if part in record.numerics), "unknown")


def parts_of(records: tuple[WorkerRecord, ...]) -> list[str]:
    """The names of all parts, in the order in which workers report them."""
    return list(dict.fromkeys(part for record in records for part in record.numerics))
