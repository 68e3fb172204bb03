"""`python -m bench.control [--out FOLDER]`: the control plane with 4 to 128 expert workers, at 28 x 512 experts.

Real Redis and real routers; the workers speak the real protocol and hold nothing, so that many fit on one machine. The
router has a core of its own; everything else shares the others.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import structlog

from bench import arguments, documents
from bench.checkpoints import console
from bench.control.engine import measure_engine
from bench.control.phases import measure, measure_leaders
from bench.control.plot import plot
from bench.control.serving import measure_serving
from bench.control.text import control_text
from bench.main import RESULTS
from bench.processes import REPO
from bench.report import machine
from bench.sweep.__main__ import checkpoint_of
from bench.sweep.axes import EXPERTS, LAYERS, Point

NAME = "control.json"
STREAMS = 8
PLOT = REPO / "docs" / "control.png"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Sizes are (expert workers, attention workers); the last one is measured with several routers as well."""

    sizes: tuple[tuple[int, int], ...] = ((4, 2), (8, 4), (16, 8), (32, 16), (64, 32), (128, 64))
    layers: int = LAYERS
    experts: int = EXPERTS
    routers: int = 3
    replicas: int = 2
    idle_s: float = 15.0
    sessions: int = 128
    tables: int = 20
    serving: int = 4  # expert workers of a cluster that serves
    tokens: int = 256
    rounds: int = 5


SMOKE = Plan(
    sizes=((4, 2), (6, 3)),
    layers=2,
    experts=8,
    routers=2,
    idle_s=1.0,
    sessions=4,
    tables=2,
    serving=2,
    tokens=16,
    rounds=1,
)


def run(plan: Plan, directory: Path) -> dict[str, Any]:
    """Measures every size; prints a line for each."""
    checkpoint = checkpoint_of(Point(layers=plan.layers, experts=plan.experts))
    model = checkpoint.path
    by_size = []
    for number, size in enumerate(plan.sizes):
        found = measure(model, directory / str(number), size, replicas=plan.replicas, idle_s=plan.idle_s)
        by_size.append(found)
        join, idle = found["join"], found["idle"]
        cores, served_s, stall_ms = idle["cost"]["router_cores"], join["seconds"]["served"], join["health_ms"]["max"]
        print(
            f"{size[0]} expert and {size[1]} attention workers: idle router {100 * cores:.1f} % of a core, "
            f"a join {served_s:.2f} s, /health then at most {stall_ms:.1f} ms",
            flush=True,
        )
    leaders = measure_leaders(
        model,
        directory / "leaders",
        plan.sizes[-1],
        routers=plan.routers,
        replicas=plan.replicas,
        idle_s=plan.idle_s,
    )
    engine = measure_engine(
        checkpoint, directory / "engine", workers=plan.sessions, streams=STREAMS, tables=plan.tables
    )
    serving = measure_serving(
        checkpoint,
        directory / "serving",
        workers=plan.serving,
        tokens=plan.tokens,
        rounds=plan.rounds,
        idle_s=plan.idle_s,
    )
    return {
        "machine": machine(),
        "plan": asdict(plan),
        "by_size": by_size,
        "leaders": leaders,
        "engine": engine,
        "serving": serving,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.control", description=__doc__)
    parser.add_argument("--out", type=arguments.folder, help=f"where {NAME} goes: beside the other results")
    parser.add_argument("--plot", type=Path, help="where the plot goes")
    parser.add_argument(
        "--smoke", action="store_true", help="few workers, few experts; without --out nothing is written"
    )
    given = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="caracal-control-"))
    console.print(f"logs in {directory}")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    found = run(SMOKE if given.smoke else Plan(), directory)
    print(control_text(found))
    out = given.out or (None if given.smoke else RESULTS)
    if out is None:
        return
    (out / NAME).write_text(json.dumps(found, indent=1) + "\n")
    plot(found["by_size"], given.plot or (PLOT if out == RESULTS else out / "control.png"))
    if out == RESULTS:
        documents.update()


if __name__ == "__main__":
    main()
