"""`python -m bench.studies`: writes docs/studies/README.md again from the studies' figures.

With --run it makes these first.
"""

from __future__ import annotations

import argparse
import sys

from bench.arguments import folder, number
from bench.studies.document import update
from bench.studies.run import run_all
from bench.studies.study import STUDIES


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.studies", description=__doc__)
    parser.add_argument("--run", action="store_true", help="run all studies first")
    parser.add_argument("--at-once", type=number(1, 64), default=2, help="so many studies at a time")
    parser.add_argument("--seed", type=number(0), default=1, help="of traffic and choices")
    parser.add_argument("--out", type=folder, default=STUDIES, help="where figures and plots go")
    parser.add_argument("--smoke", action="store_true", help="a tiny part of each: not into the document")
    given = parser.parse_args()
    if given.smoke and given.out == STUDIES:
        parser.error("--smoke needs an --out of its own: its figures mean nothing")
    failed = run_all(given.out, given.at_once, given.seed, smoke=given.smoke) if given.run else []
    if failed:
        sys.exit("\n".join(failed))
    if given.out == STUDIES:
        update()


if __name__ == "__main__":
    main()
