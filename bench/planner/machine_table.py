"""The table of docs/planner.md of this machine: clusters of shapes that no factor was fitted on, by `planner.json`."""

from __future__ import annotations

import json
import math
from pathlib import Path

RESULT = Path(__file__).resolve().parents[1] / "results" / "planner.json"
NOT_YET = "Not measured yet: it wants an idle machine, and there is no result file {name}."


def machine_table(result: Path = RESULT) -> str:
    """Each point with what was measured and predicted; a line that says so while there is no result."""
    if not result.exists():
        return NOT_YET.format(name=result.name)
    found = json.loads(result.read_text(encoding="utf-8"))
    rows, goal = found["rows"], found["goal_percent"]
    lines = [
        "| model | expert workers | replicas | streams | ITL, ms | predicted | tokens/s | predicted | error |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = (
            row["model"],
            f"{row['expert_workers']}",
            f"{row['replicas']}",
            f"{row['streams']}",
            f"{row['itl_ms']:.3g}",
            f"{row['predicted_itl_ms']:.3g}",
            f"{row['tokens_per_s']:.3g}",
            f"{row['predicted_tokens_per_s']:.3g}",
            f"{row['error_percent']:+.0f} %",
        )
        lines.append(f"| {' | '.join(cells)} |")
    errors = [row["error_percent"] for row in rows]
    within = sum(abs(error) <= goal for error in errors)
    mean = math.sqrt(sum(error**2 for error in errors) / len(errors))
    here = found["machine"]
    foot = f"Within the goal of {goal:g} %: {within} of {len(rows)}; root of the mean square {mean:.0f} %. "
    foot += f"{here['cpu']}, {here['cores']} cores, {here['time'][:10]}."
    return "\n".join([*lines, "", foot])
