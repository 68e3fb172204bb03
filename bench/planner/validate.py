"""`python -m bench.planner.validate`: clusters of shapes that no factor was fitted on, measured and predicted."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from bench.arguments import file, number
from bench.main import RESULTS
from bench.planner.calibrate import calibrate
from bench.planner.points import VALIDATION, Measured, measure, short
from bench.report import machine
from services.cli.planning.profiles import device, link
from services.planner.one_machine import step

ROUNDS, GOAL = 5, 15.0


def compare(measured: list[Measured], profile: Path) -> list[dict[str, Any]]:
    """Both latencies and rates of every point, and by how many percent the prediction is off."""
    one, wire = device("cpu", profile), link("loopback", profile)
    rows = []
    for each in measured:
        seconds = step(each.point, one, wire).seconds
        rows.append(
            {
                "model": each.model,
                "expert_workers": each.point.workers,
                "replicas": each.point.replicas,
                "streams": each.point.streams,
                "itl_ms": 1e3 * each.seconds,
                "predicted_itl_ms": 1e3 * seconds,
                "tokens_per_s": each.point.streams / each.seconds,
                "predicted_tokens_per_s": each.point.streams / seconds,
                "error_percent": 100 * (seconds / each.seconds - 1),
                "turns_ms": [1e3 * turn for turn in each.turns],
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.planner.validate", description=__doc__)
    parser.add_argument("--profile", type=Path, help="of `caracal plan --calibrate`; made first without it")
    parser.add_argument("--rounds", type=number(1), default=ROUNDS, help="medians of so many turns")
    parser.add_argument("--out", type=file, default=RESULTS / "planner.json", help="where the result goes")
    parser.add_argument("--smoke", action="store_true", help="a few streams once: the figures mean nothing")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="caracal-validate-") as folder:
        profile = given.profile or Path(folder, "profile.toml")
        if given.profile is None:
            calibrate(profile, smoke=given.smoke)
        models = short(VALIDATION) if given.smoke else list(VALIDATION)
        rows = compare(measure(models, Path(folder), 1 if given.smoke else given.rounds), profile)
        text = profile.read_text(encoding="utf-8")
    for row in rows:
        print(
            f"{row['model']}, {row['expert_workers']} expert worker(s), {row['streams']} streams: "
            f"{row['itl_ms']:.3g} ms, "
            f"predicted {row['predicted_itl_ms']:.3g} ms ({row['error_percent']:+.0f} %, goal within {GOAL:g})"
        )
    given.out.write_text(
        json.dumps({"machine": machine(), "goal_percent": GOAL, "profile": text, "rows": rows}, indent=1) + "\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
