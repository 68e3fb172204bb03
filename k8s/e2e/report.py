"""The table of stalls: how long streams stall during each event. Each run adds its rows to those of other runs."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from k8s.e2e.records import Stalls

RESULTS = Path(__file__).parents[2] / "bench/results"
UNIT = "ms between two tokens of a stream"
HEAD = (
    "| while 10 streams run | requests | failed | p50 ms | p99 ms | longest ms | longest first token ms | measured |\n"
    "|---|---:|---:|---:|---:|---:|---:|---|\n"
)
Row = dict[str, Any]


class Report:
    """Collects stalls, and writes them into the files of `folder`: rows of the same event are replaced, others stay."""

    def __init__(self, folder: Path = RESULTS) -> None:
        self._rows: dict[str, Row] = {}
        self._folder = folder

    def add(self, event: str, stalls: Stalls, note: str = "") -> None:
        """`note`: what else was measured, in words."""
        figures: Row = {name: round(value, 1) for name, value in asdict(stalls).items()}
        figures |= {"measured": datetime.now(UTC).strftime("%Y-%m-%d")}
        self._rows[event] = figures | ({"note": note} if note else {})

    def write(self) -> None:
        if not self._rows:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / "k8s-stalls.json"
        rows = _earlier(path) | self._rows
        machine = f"{platform.machine()}, {os.cpu_count()} cores, all nodes and clients on it"
        path.write_text(json.dumps({"machine": machine, "unit": UNIT, "events": rows}, indent=1) + "\n")
        lines = "".join(_line(event, row) for event, row in rows.items())
        text = f"# Stalls on Kubernetes\n\n{machine}. `make e2e-k8s` writes this.\n\n{HEAD}{lines}"
        (self._folder / "k8s-stalls.md").write_text(text)


def _earlier(path: Path) -> dict[str, Row]:
    rows: dict[str, Row] = json.loads(path.read_text())["events"] if path.exists() else {}
    return rows


def _line(event: str, row: Row) -> str:
    figures = f"{row['p50']:.1f} | {row['p99']:.0f} | {row['worst']:.0f} | {row['worst_first']:.0f}"
    what = f"{event} ({row['note']})" if row.get("note") else event
    return f"| {what} | {row['requests']} | {row['failed']} | {figures} | {row['measured']} |\n"
