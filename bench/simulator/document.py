"""The tables of docs/simulator.md, between their marks: what was measured of the simulator."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.document_tables import table, with_blocks
from bench.planner.machine_table import NOT_YET

REPO = Path(__file__).resolve().parents[2]
DOCUMENT, RESULTS = REPO / "docs" / "simulator.md", REPO / "bench" / "results"
SPEEDS = {
    "simulator-speed.json": "requests that share nothing",
    "simulator-conversations.json": "conversations",
    "simulator-record.json": "a record of routers",
}


def filled(text: str, results: Path = RESULTS) -> str:
    """The document with every table made anew."""
    made = {"validation": validation(results), "speed": speed(results)}
    return with_blocks(text, "python -m bench.simulator", made)


def validation(results: Path = RESULTS) -> str:
    """Each schedule, measured and simulated; a line that says so while there is no result."""
    path = results / "simulator.json"
    if not path.exists():
        return NOT_YET.format(name=path.name)
    found = json.loads(path.read_text(encoding="utf-8"))
    head = (
        "schedule",
        "attention, expert workers",
        "goodput, per s",
        "ITL p99, ms",
        "TTFT p99, ms",
        "longest stall, ms",
    )
    body = []
    for row in found["rows"]:
        one, other, off = row["measured"], row["simulated"], row["off"]
        shares = (
            f"{scale * one[key]:.3g}, {scale * other[key]:.3g} ({100 * off[key]:+.0f} %{_verdict(row, key)})"
            for key, scale in (("goodput", 1.0), ("itl_p99", 1e3), ("ttft_p99", 1e3))
        )
        stall = f"{1e3 * one['longest_stall']:.0f}, {1e3 * other['longest_stall']:.0f} "
        stall += f"({1e3 * off['stall_s']:+.0f}{_verdict(row, 'stall')})"
        workers = f"{row['attention_workers']}, {row['expert_workers']} ({row['replicas']} of each expert)"
        body.append((row["schedule"], workers, *shares, stall))
    met = [verdict for row in found["rows"] for verdict in row["met"].values()]
    foot = f"Measured, simulated (off by). {sum(met)} of {len(met)} goals are met; those in bold are not. "
    return f"{table(head, body)}\n\n{foot}{_machine(found)}"


def _verdict(row: Mapping[str, Any], key: str) -> str:
    return "" if row["met"][key] else ", **missed**"


def speed(results: Path = RESULTS) -> str:
    """What simulations have cost; a line that says so while none was measured."""
    body = []
    for name, what in SPEEDS.items():
        path = results / name
        if not path.exists():
            continue
        found = json.loads(path.read_text(encoding="utf-8"))
        queries = found.get("prefix_queries", 0)
        cached = f"{100 * found['prefix_hits'] / queries:.0f} %" if queries else ""
        old = "" if "upgraded" in found else " (before detectors, caches and upgrades that end were simulated)"
        body.append(
            (
                f"[{what}](../bench/results/{name}){old}",
                f"{found['virtual_s']:,.0f}",
                f"{found['requests']:,}",
                f"{found['steps'] / 1e6:.3g} million",
                f"{found.get('upgraded', '')}",
                cached,
                f"{found['cpu_s']:.0f}, {found['wall_s']:.0f}",
                f"{found['peak_rss_bytes'] / 1e6:,.0f}",
                _machine(found),
            )
        )
    head = (
        "requests",
        "virtual s",
        "number",
        "steps",
        "pods upgraded",
        "prompts cached",
        "CPU s, wall s",
        "MB",
        "where",
    )
    return table(head, body) if body else NOT_YET.format(name=next(iter(SPEEDS)))


def _machine(found: Mapping[str, Any]) -> str:
    here = found["machine"]
    return f"{here['cpu']}, {here['cores']} cores, {here['time'][:10]}."
