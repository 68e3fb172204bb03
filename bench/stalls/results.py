"""The result file: for each kind what was found beside the same time without a fault, and whether its goals are met."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.report import VERDICT, machine
from bench.stalls.callers import Load
from bench.stalls.kinds import FOUND_S, LATE_UNTIL, LONGEST, P99, TIMES, Kind
from bench.stalls.measure import Arm, Found, Sizes, quantile

FORMAT = 1
IN_WORDS = {P99: "p99", LONGEST: "longest", LATE_UNTIL: "slow for", TIMES: f"p99 after {FOUND_S:g} s, times"}
UNITS = {P99: "ms", LONGEST: "ms", LATE_UNTIL: "s"}
Entry = dict[str, Any]


def entry(kind: Kind, load: Load, sizes: Sizes, found: Found) -> Entry:
    """One kind's part of the file."""
    described = {
        "what": kind.what,
        "machine": machine(),
        "streams": load.callers,
        "prompt_tokens": load.prompt,
        "rounds": found.rounds,
        "window_s": sizes.window_s,
        "stall_ms": {"without": _stalls(found.control), "with": _stalls(found.fault)},
        "first_token_ms": {"without": _first(found.control), "with": _first(found.fault)},
        "late_until_s": [round(seconds, 3) for seconds in found.fault.late_until],
        "lost": found.lost,
        "changed": found.changed,
        "errors": found.errors[:10],
    }
    if found.fault.serves_again:
        described["serves_again_s"] = [round(seconds, 2) for seconds in found.fault.serves_again]
    goals = goals_of(kind, found)
    return described | {"goals": goals, "met": all(one["met"] for one in goals)}


def goals_of(kind: Kind, found: Found) -> list[Entry]:
    """Each goal beside what was measured."""
    stalls = found.fault.stalls
    values = {
        P99: 1000 * quantile(stalls, 0.99),
        LONGEST: 1000 * max(stalls),
        LATE_UNTIL: max(found.fault.late_until),
    }
    if TIMES in kind.goals:
        values[TIMES] = quantile(found.fault.later, 0.99) / quantile(found.control.later, 0.99)
    goals = [(what, values[what], most) for what, most in kind.goals.items()]
    goals += [("lost", found.lost, 0), ("changed", found.changed, 0)]
    return [{"what": what, "goal": most, "value": round(value, 3), "met": value <= most} for what, value, most in goals]


def failed(kind: Kind, why: str) -> Entry:
    """The part of a kind that could not be measured."""
    return {"what": kind.what, "machine": machine(), "failed": why, "met": False}


def read(out: Path) -> dict[str, Entry]:
    """The kinds that a file in that folder has; none if it is of another format, or there is none."""
    try:
        stored = json.loads((out / "stalls.json").read_text())
    except FileNotFoundError:
        return {}
    kinds: dict[str, Entry] = stored["kinds"] if stored.get("format") == FORMAT else {}
    return kinds


def write(out: Path, kinds: Mapping[str, Entry]) -> None:
    """Writes stalls.json and stalls.md."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "stalls.json").write_text(json.dumps({"format": FORMAT, "kinds": dict(kinds)}, indent=1) + "\n")
    (out / "stalls.md").write_text(markdown(kinds))


def markdown(kinds: Mapping[str, Entry]) -> str:
    """A table with a line for each kind."""
    lines = [
        "The longest time between two tokens of each stream in each round, in ms: median, p99 and longest, while "
        "nothing fails and while something does.",
        "",
        "| fault | measured | streams × rounds, prompt | without | with | serves again, s | goals |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in kinds.values():
        when = f"{one['machine']['time']}, {one['machine']['cpu']}, {one['machine']['cores']} cores"
        if "failed" in one:
            lines.append(f"| {one['what']} | {when} | | | | | not measured: {one['failed']} |")
            continue
        shape = f"{one['streams']} × {one['rounds']}, {one['prompt_tokens']} tokens"
        without, during = (_shown(one["stall_ms"][arm]) for arm in ("without", "with"))
        again = ", ".join(f"{seconds:g}" for seconds in one.get("serves_again_s", []))
        lines.append(f"| {one['what']} | {when} | {shape} | {without} | {during} | {again} | {_goals(one['goals'])} |")
    return "\n".join(lines) + "\n"


def _goals(goals: Sequence[Entry]) -> str:
    shown = []
    for one in goals:
        what, unit = IN_WORDS.get(one["what"], one["what"]), UNITS.get(one["what"], "")
        shown.append(f"{what} {one['value']:.4g} (≤ {one['goal']:g}{f' {unit}' if unit else ''} {VERDICT[one['met']]})")
    return ", ".join(shown)


def _stalls(arm: Arm) -> Entry:
    ms = [1000 * seconds for seconds in arm.stalls]
    values = {"p50": quantile(ms, 0.5), "p99": quantile(ms, 0.99), "max": max(ms)}
    return {name: round(value, 1) for name, value in values.items()} | {"each": [round(value, 1) for value in ms]}


def _first(arm: Arm) -> Entry:
    ms = [1000 * seconds for seconds in arm.first_tokens]
    return {"requests": len(ms), "max": round(max(ms, default=0.0), 1)}


def _shown(stalls: Entry) -> str:
    return ", ".join(f"{stalls[name]:.4g}" for name in ("p50", "p99", "max"))
