"""Result files: every row as JSON, and the tables that people read."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

import torch
from caracal_kernels import cpu_backend

from bench.row import Row

FORMAT = 2  # of the JSON: rows have sections, columns and keys
VERDICT = {True: "met", False: "**missed**", None: ""}


def machine() -> dict[str, str | int]:
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        "",
    )
    return {
        "cpu": cpu,
        "cores": os.cpu_count() or 0,
        "kernels": cpu_backend(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def write(rows: Sequence[Row], out: Path, name: str, about: dict[str, str] | None = None) -> None:
    """Writes NAME.json and NAME.md. `about`: what else a reader has to know of the run, by name."""
    out.mkdir(parents=True, exist_ok=True)
    described = machine() | (about or {})
    found = {"format": FORMAT, "machine": described, "rows": [asdict(row) for row in rows]}
    (out / f"{name}.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    (out / f"{name}.md").write_text(markdown(rows, about))


def markdown(rows: Iterable[Row], about: dict[str, str] | None = None) -> str:
    """The tables, section by section, under a line about the machine."""
    where = machine()
    lines = [
        f"{where['cpu']}, {where['cores']} cores, kernels {where['kernels']}, torch {where['torch']}, {where['time']}"
    ]
    lines += [f"\n{name}: {text}" for name, text in (about or {}).items()]
    for section, found in groupby(rows, key=lambda row: row.section):
        group = list(found)
        lines += ["", f"## {section}", ""] if section else [""]
        lines += _pivoted(group) if all(row.column for row in group) else _listed(group)
    return "\n".join(lines) + "\n"


def _listed(rows: Sequence[Row]) -> list[str]:
    lines = ["| what | measured | goal | |", "|---|---|---|---|"]
    return lines + [f"| {row.what} | {_value(row)} {row.unit} | {row.goal} | {VERDICT[row.met]} |" for row in rows]


def _pivoted(rows: Sequence[Row]) -> list[str]:
    columns = list(dict.fromkeys(row.column for row in rows))
    lines = [f"| | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for what in dict.fromkeys(row.what for row in rows):
        cells = {row.column: row for row in rows if row.what == what}
        unit = next(iter(cells.values())).unit
        shown = (_cell(cells[column]) if column in cells else "" for column in columns)
        lines.append(f"| {what}{f', {unit}' if unit else ''} | {' | '.join(shown)} |")
    return lines


def _cell(row: Row) -> str:
    return f"{_value(row)} ({row.goal} {VERDICT[row.met]})" if row.goal else _value(row)


def _value(row: Row) -> str:
    """Four digits, or all before the point."""
    return f"{row.value:.0f}" if abs(row.value) >= 1000 else f"{row.value:.4g}"
