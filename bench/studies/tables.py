"""The tables of docs/studies/README.md, from the studies' figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bench.document_tables import table


def replicas(found: Mapping[str, Any]) -> str:
    head = ("exponent", "more replicas", "GB in all", "step, ms", "over even choices", "loaded a minute")
    even = found["even_step_ms"]
    return table(
        head,
        [
            (
                f"{row['skew']:g}",
                f"{row['extra']}",
                f"{row['gb']:.0f}",
                f"{row['step_ms']:.2f}",
                f"{row['step_ms'] / even:.2f}",
                f"{row['loaded_per_minute']:.0f}",
            )
            for row in found["rows"]
        ],
    )


def ratio(found: Mapping[str, Any]) -> str:
    splits = sorted({(row["attention"], row["experts"]) for row in found["rows"]})
    head = ("context", *(f"{attention}:{experts}" for attention, experts in splits), "best: ITL p50, p99, ms")
    lines = []
    for context, best in found["best"].items():
        its = {row["attention"]: row["tokens_s"] for row in found["rows"] if row["context"] == best["context"]}
        cells = (f"{its[attention]:.0f}" for attention, _ in splits)
        lines.append((context, *cells, f"{best['itl_p50_ms']:.0f}, {best['itl_p99_ms']:.0f}"))
    return table(head, lines)


def dead_pod(found: Mapping[str, Any]) -> str:
    head = (
        "dies",
        "replicas",
        "longest stall, s",
        "answers with 250 ms or more",
        "finished",
        "steps waited, s",
        "loaded",
    )
    return table(
        head,
        [
            (
                row["dies"],
                f"{row['replicas']}",
                f"{row['longest_stall_s']:.2f}",
                f"{row['stalled']}",
                f"{row['finished']} of {row['requests']}",
                f"{row['blocked_s']:.2f}",
                f"{row['experts_loaded']}",
            )
            for row in found["rows"]
        ],
    )


def autoscaling(found: Mapping[str, Any]) -> str:
    head = ("high over low", "pods", "pod-hours", "goodput, per s", "ITL p99, ms", "TTFT p99, s", "stall, s")
    return table(
        head,
        [
            (
                f"{row['swing']}",
                row["pods"],
                f"{row['expert_pod_hours']:.1f}",
                f"{row['goodput']:.2f}",
                f"{row['itl_p99_ms']:.1f}",
                f"{row['ttft_p99_s']:.2f}",
                f"{row['longest_stall_s']:.2f}",
            )
            for row in found["rows"]
        ],
    )


def growth(found: Mapping[str, Any]) -> str:
    wires = [name for name in found["rows"][0] if name not in ("pods", "control")]
    head = ["pods"]
    for wire in wires:
        head += [f"{wire}: step, ms", "link", "messages", "launches"]
    head += ["a join, CPU s", "balancing, CPU s", "table, MB"]
    lines = []
    for row in found["rows"]:
        cells = [f"{row['pods']}"]
        for wire in wires:
            cells += [f"{row[wire][part]:.1f}" for part in ("step_ms", "link_ms", "messages_ms", "launch_ms")]
        control = row["control"]
        cells += [f"{control['join_cpu_s']:.2f}", f"{control['balance_cpu_s']:.2f}"]
        lines.append((*cells, f"{control['table_bytes'] / 1e6:.2f}"))
    return table(head, lines)


TABLES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "replicas": replicas,
    "ratio": ratio,
    "dead_pod": dead_pod,
    "autoscaling": autoscaling,
    "growth": growth,
}
