"""`python -m bench.simulator.speed`: what an hour of a large cluster costs to simulate, on one core.

LongCat-Flash's 14,336 experts on 128 expert workers, 64 attention workers, 3 routers; lengths of Azure's conversations,
choices that are skewed and drift, a flash crowd, deaths, slow links, and rolling upgrades at the end, of as many pods
as there is time for.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bench.arguments import file, number
from bench.main import RESULTS
from bench.report import machine
from bench.studies.large import SLO, hour
from bench.studies.progress import progress
from services.router.recording.lines import BadLine
from services.simulator.recorded import replay_of
from services.simulator.simulation import Scenario, play

HOUR_S, GOAL_S, SEED = 3600.0, 300.0, 1


def measure(scenario: Scenario, shown: bool) -> dict[str, Any]:
    """Plays a scenario once; wall and CPU seconds are those of this process."""
    seconds = scenario.seconds
    began, cpu = time.perf_counter(), time.process_time()
    with progress(seconds, shown) as show:
        played = play(scenario, SEED, show)
    wall_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    return {
        "virtual_s": seconds,
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "requests": len(played.outcomes.generations),
        "steps": played.steps,
        "tables": played.tables,
        "experts_loaded": played.experts_loaded,
        "upgraded": played.upgraded,
        "prefix_queries": played.prefix_queries,
        "prefix_hits": played.prefix_hits,
        "summary": asdict(played.summary(SLO)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.simulator.speed", description=__doc__)
    parser.add_argument("--seconds", type=number(5), default=int(HOUR_S), help="of virtual time")
    parser.add_argument("--rate", type=number(1), default=50, help="requests a second, outside the flash crowd")
    parser.add_argument("--out", type=file, help="where the result goes; else to a file of its kind in bench/results")
    parser.add_argument("--record", type=Path, help="of routers: its requests come instead, from the first on")
    parser.add_argument("--conversations", action="store_true", help="requests are turns, whose prompts are cached")
    given = parser.parse_args()
    scenario = hour(float(given.seconds), float(given.rate), conversations=given.conversations)
    if given.record is not None:
        try:
            replay = replay_of(given.record.read_bytes().splitlines())
        except (OSError, BadLine) as error:
            parser.error(f"--record {given.record}: {error}")
        scenario = replace(scenario, arrivals=replay.generate)
    kind = "record" if given.record else "conversations" if given.conversations else "speed"
    found = measure(scenario, True)
    print(
        f"{found['virtual_s']:.0f} s with {found['requests']} requests and {found['steps']} steps: "
        f"{found['wall_s']:.0f} s, {found['cpu_s']:.0f} s of CPU (goal {GOAL_S:.0f} for an hour)"
    )
    out = given.out or RESULTS / f"simulator-{kind}.json"
    out.write_text(json.dumps({"machine": machine(), "goal_s": GOAL_S} | found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
