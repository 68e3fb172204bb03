"""What the studies' figures say, in sentences: docs/studies/README.md quotes no result that is not from here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

from services.planner.families import FLASH_CHAT

NEAR = 0.01  # as good as the best
BEFORE = "Made before the simulator had detectors, caches and calls that are sent again: by now it says something else."

Row = Mapping[str, Any]


def replicas(found: Mapping[str, Any]) -> list[str]:
    said, even = [], found["even_step_ms"]
    for skew, rows in _groups(found, "skew"):
        none, best = rows[0]["step_ms"], min(row["step_ms"] for row in rows)
        near = next(row for row in rows if row["step_ms"] <= (1 + NEAR) * best)
        hottest = FLASH_CHAT.experts / sum(rank**-skew for rank in range(1, FLASH_CHAT.experts + 1))
        text = f"Exponent {skew:g}, the hottest expert at {hottest:.1f} times the mean: without more replicas a step "
        text += f"takes {none:.1f} ms, {none / even:.2f} times as long as where choices are even"
        if near["extra"]:
            text += f"; {near['extra']} more in a layer, {near['gb']:.0f} GB in all, make it {near['step_ms']:.1f} ms "
            text += f"({_change(near['step_ms'], none)}), and more than that gain less than {100 * NEAR:g} %"
        else:
            text += f", and no number of them gains {100 * NEAR:g} %"
        said.append(f"{text}.")
    return said


def ratio(found: Mapping[str, Any]) -> list[str]:
    said = []
    for context, rows in _groups(found, "context"):
        best = max(row["tokens_s"] for row in rows)
        good = [f"{row['attention']}:{row['experts']}" for row in rows if row["tokens_s"] >= (1 - NEAR) * best]
        said.append(f"{context:,} tokens: {' and '.join(good)}, {best:,.0f} tokens/s (within {100 * NEAR:g} %).")
    return said


def dead_pod(found: Mapping[str, Any]) -> list[str]:
    said = []
    for count, rows in _groups(found, "replicas"):
        quiet = next(row["longest_stall_s"] for row in rows if row["dies"] == "nothing")
        more = ", ".join(
            f"{row['longest_stall_s'] - quiet:+.2f} s for one {row['dies']}" for row in rows if row["dies"] != "nothing"
        )
        waited = max(row["blocked_s"] for row in rows)
        text = f"{count} replica{'s' * (count > 1)}: the longest stall is {quiet:.2f} s when nothing dies; {more}"
        said.append(f"{text}. Steps wait {waited:.2f} s for experts at most.")
    lost = sum(row["requests"] - row["finished"] for row in found["rows"])
    return [*said, f"{lost} requests do not finish." if lost else "Every request finishes."]


def autoscaling(found: Mapping[str, Any]) -> list[str]:
    said = []
    for swing, group in _groups(found, "swing"):
        rows = {row["pods"]: row for row in group}
        most, least, scaled = (rows[name] for name in ("static, most", "static, least", "scaled"))
        text = (
            f"High over low {swing}: scaled pods take {_change(scaled['expert_pod_hours'], most['expert_pod_hours'])} "
        )
        text += (
            f"pod-hours beside the static most, with {_change(scaled['goodput'], most['goodput'])} goodput; the static "
        )
        text += f"least takes {_change(least['expert_pod_hours'], most['expert_pod_hours'])} with "
        text += (
            f"{_change(least['goodput'], most['goodput'])}, and a p99 of the first token of {least['ttft_p99_s']:.2f} "
        )
        said.append(f"{text}s beside {most['ttft_p99_s']:.2f} s.")
    return said


def growth(found: Mapping[str, Any]) -> list[str]:
    rows: Sequence[Row] = found["rows"]
    said, last = [], rows[-1]
    for wire in (name for name in last if name not in ("pods", "control")):
        best, here = min(rows, key=lambda row: row[wire]["step_ms"]), last[wire]
        parts = {"rows on the link": here["link_ms"], "messages": here["messages_ms"], "launches": here["launch_ms"]}
        most = max(parts, key=lambda part: parts[part])
        text = (
            f"{wire}: a step is shortest at {best['pods']} pods, {best[wire]['step_ms']:.1f} ms; at {last['pods']} it "
        )
        text += f"takes {here['step_ms']:.1f} ms, of {', '.join(parts)} the most for {most} ({parts[most]:.1f} ms), "
        said.append(f"{text}and the fullest pod has {here['skew']:.1f} times the mean's rows.")
    control = last["control"]
    text = (
        f"The leader with {last['pods']} pods: {control['join_cpu_s']:.2f} s of CPU for the policy when a pod joins, "
    )
    text += f"{control['balance_cpu_s']:.2f} s when it balances; a table has {control['table_bytes'] / 1e3:.0f} kB."
    return [*said, text]


def _groups(found: Mapping[str, Any], key: str) -> list[tuple[Any, list[Row]]]:
    return [(value, list(rows)) for value, rows in groupby(found["rows"], key=lambda row: row[key])]


def _change(value: float, of: float) -> str:
    return f"{100 * (value / of - 1):+.0f} %" if of else "no"


FINDINGS: Mapping[str, Callable[[Mapping[str, Any]], list[str]]] = {
    "replicas": replicas,
    "ratio": ratio,
    "dead_pod": dead_pod,
    "autoscaling": autoscaling,
    "growth": growth,
}


def text_of(name: str, found: Mapping[str, Any]) -> str:
    """The sentences of a study, and when it was made."""
    made = f"Made on {found['made']}." if "made" in found else BEFORE
    return "\n".join([*(f"* {line}" for line in FINDINGS[name](found)), "", made, ""])
