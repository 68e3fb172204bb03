"""Tables on narrow terminals: columns are left out, the less important ones first, and what is shown is whole."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from services.cli.fitting_table import FittingTable
from services.cli.status import render
from services.cli.status_rows import COLUMNS, OPTIONAL, rows
from services.membership.overview import Overview
from services.membership.record import WorkerRecord

BUSY = {
    "running": 31.0,
    "waiting": 117.0,
    "kv_pages_total": 10.0,
    "kv_pages_used": 10.0,
    "zero_share": 0.33,
    "round_trip_s_per_layer": 0.0125,
    "exposed_s_per_layer": 0.0115,
}


def worker(role: str, number: int, host: str) -> WorkerRecord:
    return WorkerRecord(
        worker_id=f"caracal-{role}-{number}",
        role=role,
        address=f"{host}:1",
        metrics_address=f"{host}:50052",
        boot_id="b",
        epoch=3,
        loaded=1792,
        stats=BUSY if role == "attention" else {},
    )


def workers(host: str) -> tuple[WorkerRecord, ...]:
    return tuple(worker(role, number, host) for role in ("router", "attention", "expert") for number in range(2))


def printed(overview: Overview, width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(render(overview, "gateway"))
    return out.getvalue()


@pytest.mark.parametrize("host", ["10.244.131.207", "[fd00:10:244:1a2b:3c4d:5e6f:7a8b:9c0d]", "[::1]"])
@pytest.mark.parametrize("width", [200, 120, 100, 80, 60, 40])
def test_what_is_shown_is_whole_on_any_width(host: str, width: int) -> None:
    overview = Overview(workers=workers(host))
    shown = printed(overview, width)
    assert max(map(len, shown.splitlines())) <= width
    left_out = shown.rpartition(f"left out on {width} columns: ")[2].split() if "left out" in shown else []
    left_out = [name.rstrip(",") for name in left_out]
    assert tuple(left_out) == OPTIONAL[: len(left_out)], "the least important ones"
    for row in rows(overview.workers):
        line = next(line for line in shown.splitlines() if line.strip().startswith(row[0]))
        for name, cell in zip(COLUMNS, row, strict=True):
            assert (cell in line) == (name not in left_out or not cell or cell in row[0]), (name, row)
    if width == 200:
        assert not left_out
    if width >= 60:
        assert "state" in shown


def test_columns_that_fit_are_not_left_out() -> None:
    table = FittingTable(("a", "b", "c"), [("x" * 10, "y" * 10, "z" * 10)], ("c", "b"))
    for width, missing in ((40, ""), (25, "c"), (14, "c, b")):
        out = io.StringIO()
        Console(file=out, width=width).print(table)
        assert ("left out" in out.getvalue()) == bool(missing)
        kept = [letter for letter, name in zip("xyz", "abc", strict=True) if name not in missing]
        assert all(letter * 10 in out.getvalue() for letter in kept)


def test_what_cannot_be_left_out_is_folded_and_not_cut() -> None:
    out = io.StringIO()
    Console(file=out, width=12).print(FittingTable(("worker",), [("abcdefghijklmnopqrstuvwxyz",)]))
    assert "".join(out.getvalue().split()).endswith("abcdefghijklmnopqrstuvwxyz")
