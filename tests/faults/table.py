"""The tables of a result, for people."""

from __future__ import annotations

from collections.abc import Sequence

from faults.goals import GOALS
from faults.outcome import Outcome, quantile

from bench.document_tables import table as markdown_table
from bench.report import VERDICT

HEAD = ("fault, at", "faults", "p50", "p99", "longest", "goal, added", "")


def table(outcome: Outcome) -> str:
    """The longest pause at each kind of fault, in seconds, with the goal and whether it is met."""
    calm = quantile(outcome.calm, 0.5) if outcome.calm else 0.0
    rows = [_row("no fault", outcome.calm, "", "")] if outcome.calm else []
    for what, stalls in sorted(outcome.stalls.items()):
        kind, _, role = what.rpartition(", ")
        goal = GOALS.get((kind, role))
        rows.append(_row(what, stalls, str(goal or ""), VERDICT[goal.is_met(stalls, calm) if goal else None]))
    return markdown_table(HEAD, rows)


def summary(outcome: Outcome) -> str:
    """What was asked, and what came of it, in words."""
    clusters = ", ".join(f"{count} {name}" for name, count in sorted(outcome.variants.items()))
    led, followed = outcome.routers.get("leads", 0), outcome.routers.get("does not lead", 0)
    return (
        f"{outcome.schedules:,} schedules ({clusters}) with {outcome.faults.total():,} faults, of which"
        f" {outcome.overlapping:,} began while another one lasted; {outcome.requests:,} requests,"
        f" {outcome.answers:,} answers, {outcome.tokens:,} tokens: **{outcome.count('lost')} requests lost,"
        f" {outcome.count('changed')} answers changed, {outcome.count('stuck')} schedules stuck**,"
        f" {len(outcome.without_effect)} faults without effect, {len(outcome.controls)} controls that did not fail,"
        f" {len(outcome.left_behind)} things left behind. Of the faults that hit a router {led} hit the one that led,"
        f" {followed} another. {outcome.refused:,} requests were refused at the door and asked again;"
        f" {outcome.turned_away:,} times a router that could not serve sent a stream on to the other one;"
        f" {len(outcome.ended_alone)} processes ended by themselves and were started again."
    )


def _row(what: str, stalls: Sequence[float], goal: str, verdict: str) -> tuple[str, ...]:
    found = (quantile(stalls, 0.5), quantile(stalls, 0.99), max(stalls))
    return (what, f"{len(stalls)}", *(f"{seconds:.2f}" for seconds in found), goal, verdict)
