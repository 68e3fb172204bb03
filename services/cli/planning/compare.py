"""A running cluster beside its plan: `caracal status --plan FILE`, where FILE is what `caracal plan --json` printed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from services.cli.fitting_table import folded
from services.cli.planning.errors import BadPlan
from services.membership.overview import Overview

COUNTS = ("attention_workers", "expert_workers", "routers")
ROLE_OF = {"attention_workers": "attention", "expert_workers": "expert", "routers": "router"}


def read_plan(path: Path) -> dict[str, Any]:
    """The plan's separate pools. Raises BadPlan."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        ways = raw["ways"]
        plan: dict[str, Any] = ways["separate"]
        numbers = [plan[name] for name in (*COUNTS, "experts_per_worker", "max_running", "pages")]
    except OSError as error:
        raise BadPlan(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise BadPlan(
            f"{path} is no plan with separate pools, as `caracal plan MODEL --gpu NAME --json` prints it"
        ) from None
    if not all(type(one) is int and one >= 0 for one in numbers):
        raise BadPlan(f"{path}: a count of the plan is no whole number")
    return plan


def rows(plan: Mapping[str, Any], overview: Overview) -> list[tuple[str, str, str, bool]]:
    """What is compared, the plan's value, the cluster's, and whether the cluster has at least what was planned."""
    found = []
    for name in COUNTS:
        workers = [one for one in overview.workers if one.role == ROLE_OF[name] and one.state == "serving"]
        found.append((name.replace("_", " "), str(plan[name]), f"{len(workers)} serving", len(workers) >= plan[name]))
    loaded = [one.loaded for one in overview.workers if one.role == "expert" and one.loaded]
    most = max(loaded, default=0)
    found.append(
        (
            "experts on the fullest expert worker",
            f"at most {plan['experts_per_worker']}",
            str(most),
            most <= plan["experts_per_worker"],
        )
    )
    running = [int(one.stats.get("running", 0)) for one in overview.workers if one.role == "attention"]
    full = max(running, default=0)
    found.append(
        (
            "sequences on the fullest attention worker",
            f"at most {plan['max_running']}",
            str(full),
            full <= plan["max_running"],
        )
    )
    return found


def show(plan: Mapping[str, Any], overview: Overview) -> bool:
    """Prints the comparison; returns whether the cluster has what was planned."""
    compared = rows(plan, overview)
    table = Table(*folded("", "plan", "cluster", ""), title="Beside its plan")
    for name, wanted, is_now, good in compared:
        table.add_row(name, wanted, is_now, "" if good else "differs")
    Console().print(table)
    return all(good for *_, good in compared)
