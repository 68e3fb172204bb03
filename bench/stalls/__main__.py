"""`python -m bench.stalls` measures how long streams stand still when a worker, its link or a node fails.

Each kind of fault gets a cluster of its own. Callers repeat their requests; every round has some seconds without the
fault, and as many with it. What counts is the longest time between two tokens of each stream in each, as its client
sees them. Every fault is verified to have happened. The files are written after each kind, and keep the kinds that
other runs have measured.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.arguments import folder, number
from bench.checkpoints import console, prepare
from bench.main import RESULTS
from bench.stalls import results
from bench.stalls.callers import Load
from bench.stalls.faults import NotInjected
from bench.stalls.kinds import KINDS, Kind
from bench.stalls.measure import Sizes, measure

SMOKE_CONFIG = "bench-tiny"
SMOKE = Sizes(rounds=1, window_s=4.0, around=20)


def run(names: Sequence[str], sizes: Sizes, out: Path | None, smoke: bool) -> dict[str, results.Entry]:
    """Measures kinds one after another and writes what there is so far after each; returns those of this run."""
    found: dict[str, results.Entry] = {}
    for name in dict.fromkeys(names):
        kind = KINDS[name]
        load, config = (_small(kind), SMOKE_CONFIG) if smoke else (kind.load, kind.model)
        found[name] = _measured(name, kind, prepare(config).path, load, sizes)
        if out is not None:
            kept = results.read(out) | found
            results.write(out, {each: kept[each] for each in KINDS if each in kept})
    return found


def _measured(name: str, kind: Kind, model: Path, load: Load, sizes: Sizes) -> results.Entry:
    try:
        one = asyncio.run(measure(kind, model, load, sizes, name))
    except (NotInjected, TimeoutError) as error:
        why = str(error) or "it took too long"
        console.print(f"{name}: not measured: {why}")
        return results.failed(kind, why)
    for error_text in one.errors:
        console.print(f"{name}: {error_text}")
    return results.entry(kind, load, sizes, one)


def _small(kind: Kind) -> Load:
    return replace(kind.load, callers=2, prompt=min(kind.load.prompt, 100), answer=400)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.stalls", description=__doc__)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="faults to measure")
    parser.add_argument("--rounds", type=number(1), default=Sizes().rounds, help="of each kind, at most")
    parser.add_argument(
        "--seconds", type=number(10), default=int(Sizes().begin_s), help="within which the rounds of a kind begin"
    )
    parser.add_argument("--out", type=folder, help=f"where stalls.json and stalls.md go, {RESULTS} if not given")
    parser.add_argument(
        "--smoke", action="store_true", help="each kind once and small: nothing is written without --out"
    )
    given = parser.parse_args()
    sizes = SMOKE if given.smoke else Sizes(rounds=given.rounds, begin_s=given.seconds)
    out = given.out or (None if given.smoke else RESULTS)
    found = run(given.kinds, sizes, out, given.smoke)
    print(results.markdown(found))
    if any("failed" in one for one in found.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
