"""A running cluster beside its plan: `caracal status --plan FILE`, where FILE is what `caracal plan --json` printed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from services.cli.fitting_table import folded
from services.cli.planning.errors import BadPlan
from services.membership.overview import Overview
from services.membership.record import ROLES

COUNTS = ("attention_workers", "expert_workers", "routers")
ROLE_OF = {"attention_workers": "attention", "expert_workers": "expert", "routers": "router"}
NUMBERS = (*COUNTS, "tp", "replicas", "model_experts", "experts_per_worker", "max_running", "pages")


@dataclass(frozen=True, slots=True)
class Plan:
    """What was planned of separate pools, by the names of `NUMBERS`, and the way that won."""

    numbers: Mapping[str, int]
    winner: str


def read_plan(path: Path) -> Plan:
    """The plan's separate pools. Raises BadPlan."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        winner, way = raw["winner"], raw["ways"]["separate"]
        numbers = {name: way[name] for name in NUMBERS}
    except OSError as error:
        raise BadPlan(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise BadPlan(
            f"{path} is no plan with separate pools, as `caracal plan MODEL --gpu NAME --json` prints it"
        ) from None
    if wrong := [name for name, one in numbers.items() if type(one) is not int or one < 0]:
        raise BadPlan(f"{path}: {wrong[0]} of the plan is no whole number")
    return Plan(numbers, str(winner))


def rows(plan: Plan, overview: Overview) -> list[tuple[str, str, str, bool]]:
    """What is compared, the plan's value, the cluster's, and whether the cluster has what was planned."""
    planned, found = plan.numbers, []
    serving = {role: [one for one in overview.workers if one.role == role and one.state == "serving"] for role in ROLES}
    for name in COUNTS:
        count = len(serving[ROLE_OF[name]])
        each = f" of {planned['tp']} devices each" if name == "attention_workers" else ""
        found.append((name.replace("_", " "), f"{planned[name]}{each}", f"{count} serving", count >= planned[name]))
    loaded = [one.loaded for one in overview.workers if one.role == "expert" and one.loaded]
    copies = sum(loaded) / max(1, planned["model_experts"])
    found.append(
        ("replicas of an expert, on average", str(planned["replicas"]), f"{copies:.2f}", copies >= planned["replicas"])
    )
    found.append(
        _at_most("experts on the fullest expert worker", planned["experts_per_worker"], max(loaded, default=0))
    )
    running = max((int(one.stats.get("running", 0)) for one in serving["attention"]), default=0)
    found.append(_at_most("sequences on the fullest attention worker", planned["max_running"], running))
    pages = min((int(one.stats.get("kv_pages_total", 0)) for one in serving["attention"]), default=0)
    wanted = planned["pages"]
    found.append(("pages of the attention worker with fewest", f"at least {wanted:,}", f"{pages:,}", pages >= wanted))
    return found


def _at_most(name: str, planned: int, most: int) -> tuple[str, str, str, bool]:
    return name, f"at most {planned:,}", f"{most:,}", most <= planned


def show(plan: Plan, overview: Overview) -> bool:
    """Prints the comparison; returns whether the cluster has what was planned."""
    compared = rows(plan, overview)
    table = Table(*folded("", "plan", "cluster", ""), title="Beside its plan")
    for name, wanted, is_now, good in compared:
        table.add_row(name, wanted, is_now, "" if good else "differs")
    console = Console()
    console.print(table)
    if plan.winner != "separate":
        console.print(f"In this plan {plan.winner} has won. These are its best separate pools, which are what is run.")
    return all(good for *_, good in compared)
