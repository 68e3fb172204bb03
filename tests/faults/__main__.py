"""`make faults N=1000`: so many schedules of faults on a real cluster, and a table of what came of them."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from faults.cluster import FaultyCluster
from faults.injectors import KINDS
from faults.questions import questions
from faults.run import Mix, run, table
from rich.progress import Progress
from support.tiny_checkpoint import PLAIN, make_checkpoint

from bench.report import machine


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
    parser.add_argument("--schedules", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the first schedule; the others follow")
    parser.add_argument("--faults", type=int, default=Mix().faults, help="of each schedule")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="of faults")
    parser.add_argument("--out", type=Path, help="a JSON file for the table")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="caracal-faults-") as folder:
        model = make_checkpoint(Path(folder) / "model", PLAIN, num_layers=3, seed=3, drafts=True)
        with FaultyCluster(model, Path(folder)) as cluster, Progress() as progress:
            bar = progress.add_task("schedules", total=arguments.schedules)
            asked = questions(model, cluster)
            seeds = range(arguments.seed, arguments.seed + arguments.schedules)
            mix = Mix(arguments.faults, arguments.kinds)
            outcome = run(cluster, asked, seeds, lambda seed: progress.advance(bar), mix)
    found = {"machine": machine(), "schedules": arguments.schedules, "seed": arguments.seed}
    found |= {"faults_each": arguments.faults} | table(outcome)
    text = json.dumps(found, indent=1)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")
    sys.exit(bool(outcome.verdicts or outcome.without_effect))


if __name__ == "__main__":
    main()
