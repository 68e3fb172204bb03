"""`make faults N=1000`: so many schedules of faults on real clusters, and a table of what came of them."""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from faults.kinds import KINDS
from faults.outcome import Outcome
from faults.questions import questions
from faults.run import Mix
from faults.suite import Suite
from faults.table import table
from rich.progress import Progress
from support.code_version import code_version
from support.tiny_checkpoint import PLAIN, make_checkpoint

from bench.report import machine

CODE = ("services", "kernels", "proto", "tests/faults")


def main() -> None:
    arguments = _arguments()
    about: dict[str, Any] = {
        "machine": machine(),
        "code": code_version(*CODE),
        "seed": arguments.seed,
        "faults_each": arguments.faults,
        "kinds": arguments.kinds,
    }
    outcome = Outcome()
    before: dict[str, Any] = {}
    if arguments.more:
        before = json.loads(arguments.out.read_text(encoding="utf-8"))
        if other := [name for name in ("code", "faults_each", "kinds") if before.get(name) != about[name]]:
            sys.exit(f"{arguments.out}: its {other[0]} is another than this run's; without --more it is written anew")
        outcome = Outcome.read(before)
    first = before["seed"] + outcome.schedules if before else arguments.seed
    about |= {"seed": before.get("seed", first), "minutes": 0.0}
    began_s = time.monotonic()

    def write() -> None:
        about["minutes"] = round(before.get("minutes", 0.0) + (time.monotonic() - began_s) / 60, 1)
        if arguments.out:
            draft = arguments.out.with_suffix(".part")
            draft.write_text(json.dumps(about | outcome.written(), indent=1) + "\n", encoding="utf-8")
            draft.replace(arguments.out)

    with tempfile.TemporaryDirectory(prefix="caracal-faults-") as folder, Progress() as progress:
        bar = progress.add_task("schedules", total=arguments.schedules)

        def done() -> None:
            progress.update(bar, completed=first_done(before, outcome))
            write()

        model = make_checkpoint(Path(folder) / "model", PLAIN, num_layers=3, seed=3, drafts=True)
        mix = Mix(arguments.faults, arguments.kinds)
        suite = Suite(model, questions(model), outcome, mix, done, began_s + 60 * arguments.minutes)
        suite.run(range(first, first + arguments.schedules))
    write()
    print(table(outcome))
    print("\n".join(outcome.failures))
    sys.exit(bool(outcome.failures))


def first_done(before: dict[str, Any], outcome: Outcome) -> int:
    """How many schedules this run has played."""
    return outcome.schedules - int(before.get("schedules", 0))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
    parser.add_argument("--schedules", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the first schedule; the others follow")
    parser.add_argument("--faults", type=int, default=Mix().faults, help="of each schedule")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="of faults")
    parser.add_argument("--minutes", type=float, default=math.inf, help="after which no schedule begins any more")
    parser.add_argument("--out", type=Path, help="a JSON file for the result, written after each schedule")
    parser.add_argument("--more", action="store_true", help="add to the result in --out; its seeds go on")
    arguments = parser.parse_args()
    if arguments.more and (arguments.out is None or not arguments.out.exists()):
        parser.error("--more needs --out, the result to add to")
    return arguments


if __name__ == "__main__":
    main()
