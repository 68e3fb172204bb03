"""The table of stalls: how long streams stall during each event."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from k8s.e2e.streams import Stalls

RESULTS = Path(__file__).parents[2] / "bench/results"
HEAD = (
    "| while 10 streams run | requests | failed | p50 ms | p99 ms | longest ms | longest first token ms |\n"
    "|---|---:|---:|---:|---:|---:|---:|\n"
)


class Report:
    """Collects stalls; a run of all tests writes them to bench/results, a run of some tests to build/."""

    def __init__(self, whole: bool) -> None:
        self._rows: dict[str, Stalls] = {}
        self._folder = RESULTS if whole else RESULTS.parents[1] / "build"

    def add(self, event: str, stalls: Stalls) -> None:
        self._rows[event] = stalls

    def write(self) -> None:
        if not self._rows:
            return
        day = datetime.now(UTC).strftime("%Y-%m-%d")
        machine = f"{platform.machine()}, {os.cpu_count()} cores, all nodes and clients on it, {day}"
        rows = {event: {k: round(v, 1) for k, v in asdict(stalls).items()} for event, stalls in self._rows.items()}
        document = {"machine": machine, "unit": "ms between two tokens of a stream", "events": rows}
        self._folder.mkdir(exist_ok=True)
        (self._folder / "k8s-stalls.json").write_text(json.dumps(document, indent=1) + "\n")
        lines = "".join(_row(event, stalls) for event, stalls in self._rows.items())
        text = f"# Stalls on Kubernetes\n\n{machine}. `make e2e-k8s` writes this.\n\n{HEAD}{lines}"
        (self._folder / "k8s-stalls.md").write_text(text)


def _row(event: str, s: Stalls) -> str:
    figures = f"{s.p50:.1f} | {s.p99:.0f} | {s.worst:.0f} | {s.worst_first:.0f}"
    return f"| {event} | {s.requests} | {s.failed} | {figures} |\n"
