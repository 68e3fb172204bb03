"""`make simulation N=100000`: so many schedules of faults in virtual time, around the code that decides."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from rich.progress import Progress
from simulation.explore import OtherCode, earlier, joined, timed
from simulation.schedule import schedule
from simulation.world import play

from bench.report import machine


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m simulation", description=__doc__)
    parser.add_argument("--schedules", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1, help="of the first schedule; the others follow")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, help="a JSON file for the result")
    parser.add_argument("--more", action="store_true", help="add to the result in --out; its seeds go on")
    parser.add_argument("--show", action="store_true", help="play the seed's schedule alone, and print it")
    arguments = parser.parse_args()
    if arguments.more and arguments.out is None:
        parser.error("--more needs --out, the result to add to")
    if arguments.show:
        plan = schedule(arguments.seed)
        print(plan)
        print(play(plan))
        return
    try:
        before = earlier(arguments.out) if arguments.more else {}
    except (OSError, OtherCode) as error:
        parser.error(str(error))
    first = before["seed"] + before["schedules"] if before else arguments.seed
    with Progress() as progress:
        bar = progress.add_task("schedules", total=arguments.schedules)
        seeds = range(first, first + arguments.schedules)
        found = timed(arguments.processes, seeds, lambda played: progress.advance(bar, played))
    found = joined(before, found) if before else found
    text = json.dumps({"machine": machine()} | found, indent=1)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")
    sys.exit(bool(found["violations"]))


if __name__ == "__main__":
    main()
