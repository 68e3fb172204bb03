"""`python -m bench.sweep` measures what a step's cost grows with; writes scaling.json and docs/scaling.png.

A model of tiny width on a cluster over HTTP, so that what is seen is the cost of serving rather than of products. All
points of an axis take turns in every round; the figures are medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import documents
from bench.checkpoints import CONFIGS, MODELS, console, make
from bench.contenders import load, prompts
from bench.cpu_time import CpuTime
from bench.main import RESULTS
from bench.processes import REPO, Cluster, best_link, cluster
from bench.report import machine
from bench.sweep.axes import AXES, Axis, Point
from bench.sweep.plot import plot
from services.checkpoint.reader import Checkpoint

PLOT = REPO / "docs" / "scaling.png"
CONFIG = CONFIGS / "bench-sweep.json"


def checkpoint_of(point: Point) -> Checkpoint:
    """The checkpoint of a point's model, written once."""
    name = f"bench-sweep-{point.layers}-{point.experts}"
    config = MODELS / f"{name}.json"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(json.dumps(json.loads(CONFIG.read_text()) | point.overrides))
    return make(config, MODELS / name)


Clusters = dict[tuple[Path, int], Cluster]  # by checkpoint and number of expert workers


def measure(axis: Axis, rounds: int, directory: Path, running: Clusters) -> list[dict[str, Any]]:
    """The figures of every point: latency in ms, tokens per second, and ms of CPU per decode step by process.

    Clusters that are not among the `running` ones are started for this axis.
    """
    checkpoints = {point: checkpoint_of(point) for point in axis.points}
    clusters = dict(running)
    latencies: dict[Point, list[float]] = {point: [] for point in axis.points}
    with ExitStack() as stack:
        for point in axis.points:
            wanted = checkpoints[point].path, point.workers
            if wanted not in clusters:
                folder = directory / f"{len(clusters)}"
                clusters[wanted] = stack.enter_context(cluster(wanted[0], folder, experts=point.workers))
        used = {point: clusters[checkpoints[point].path, point.workers] for point in axis.points}
        cpu = {point: CpuTime(target) for point, target in used.items()}
        for turn in range(rounds + 1):  # the first one warms up
            for point, target in used.items():
                batch = prompts(point.streams, checkpoints[point].config.vocab_size, point.context)
                if turn == 0:
                    load(target, batch)
                    continue
                latencies[point].append(1e3 * load(target, batch, cpu=cpu[point]).inter_token_seconds)
    return [
        {
            "at": axis.at(point),
            "inter_token_ms": (latency := statistics.median(latencies[point])),
            "tokens_per_s": 1e3 * point.streams / latency,
            "cpu_ms_per_step": cpu[point].ms_per_step(),
            "turns_ms": latencies[point],
            "point": asdict(point),
        }
        for point in axis.points
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.sweep", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds, at least 3; medians are reported")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where scaling.json goes")
    parser.add_argument("--plot", type=Path, default=PLOT, help="where the plots go")
    parser.add_argument("--smoke", action="store_true", help="every axis, but two points of it, once")
    given = parser.parse_args()
    if given.rounds < 3:
        parser.error("--rounds: a median needs at least 3 rounds")
    axes = [axis.short() for axis in AXES] if given.smoke else list(AXES)
    directory = Path(tempfile.mkdtemp(prefix="caracal-sweep-"))
    console.print(f"logs in {directory}")
    found: dict[str, Any] = {"machine": machine() | {"link": best_link()}, "axes": {}}
    usual = checkpoint_of(Point()).path
    with cluster(usual, directory / "usual") as target:
        for number, axis in enumerate(axes):
            console.print(f"by {axis.name}")
            rounds = 1 if given.smoke else given.rounds
            points = measure(axis, rounds, directory / str(number), {(usual, 1): target})
            found["axes"][axis.name] = points
            print(axis.name, *(f"{point['at']}: {point['inter_token_ms']:.3f} ms" for point in points), sep="  ")
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "scaling.json").write_text(json.dumps(found, indent=1) + "\n")
    plot(found["axes"], given.plot)
    if given.out == RESULTS and given.plot == PLOT:
        documents.update()


if __name__ == "__main__":
    main()
