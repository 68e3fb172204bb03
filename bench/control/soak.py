"""`python -m bench.control.soak [--minutes N]`: routers at 28 x 512 experts, while workers join and leave every second.

What must not grow with time is sampled: memory, file descriptors, threads and tasks of the routers, and the keys in
Redis. The first and the last quarter of the samples are compared.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench import arguments, documents
from bench.checkpoints import console
from bench.control.processes import ControlPlane, Router, control_plane
from bench.control.text import soak_text
from bench.main import RESULTS
from bench.report import machine
from bench.sweep.__main__ import checkpoint_of
from bench.sweep.axes import EXPERTS, LAYERS, Point

NAME = "control-soak.json"
EXPERT_WORKERS, ATTENTION_WORKERS, ROUTERS, REPLICAS = 12, 4, 2, 2
CHANGE_EVERY_S, SAMPLE_EVERY_S = 1.0, 2.0
FORGOTTEN_S = 16.0  # until leases have expired and left the index
TASKS = "caracal_event_loop_tasks"


def changes() -> Iterator[dict[str, Any]]:
    """Commands to the workers' process: one that joins, one that dies or drains, of either role, for ever."""
    yield from ({"join": ["attention", ATTENTION_WORKERS]}, {"join": ["expert", EXPERT_WORKERS]})
    attention = itertools.count()
    for expert in itertools.count(0, 2):
        yield {"join": ["expert", 2]}
        yield {"kill": f"expert-{expert}"}
        yield {"drain": f"expert-{expert + 1}"}
        yield {"join": ["attention", 1]}
        yield {"kill": f"attention-{next(attention)}"}
        yield {"kill": f"expert-{expert + 1}"}


def sample(control: ControlPlane, router: Router) -> dict[str, float]:
    _, page = router.get("/metrics")
    tasks = [line.split()[1] for line in page.decode().splitlines() if line.startswith(f"{TASKS} ")]
    return {**control.resources(router), "tasks": float(tasks[0]), "redis_keys": control.redis.dbsize()}


def run(minutes: float, layers: int, experts: int, directory: Path) -> dict[str, Any]:
    """Returns the samples of every router, and the growth from the first quarter to the last."""
    model = checkpoint_of(Point(layers=layers, experts=experts)).path
    with control_plane(model, directory, ROUTERS, REPLICAS) as control:
        commands = changes()
        for _ in range(2):
            control.fakes.ask(**next(commands), wait=False)
        time.sleep(FORGOTTEN_S)
        samples: dict[str, list[dict[str, float]]] = {router.name: [] for router in control.routers}
        end_s, done = time.monotonic() + 60 * minutes, 0
        sampled_s = 0.0
        while time.monotonic() < end_s:
            control.fakes.ask(**next(commands), wait=False)
            done += 1
            if time.monotonic() > sampled_s + SAMPLE_EVERY_S:
                sampled_s = time.monotonic()
                for router in control.routers:
                    samples[router.name].append(sample(control, router))
            time.sleep(CHANGE_EVERY_S)
        epoch = control.redis.hget("caracal:placement", "epoch")
        time.sleep(FORGOTTEN_S)
        after = {router.name: sample(control, router) for router in control.routers}
    return {
        "machine": machine(),
        "minutes": minutes,
        "changes": done,
        "epoch": int(epoch),
        "growth": {name: growth(each) for name, each in samples.items()},
        "after": after,
        "samples": samples,
    }


def growth(samples: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """The median of each figure in the first and the last quarter of the samples."""
    quarter = max(1, len(samples) // 4)
    return {
        name: {
            "first": statistics.median(each[name] for each in samples[:quarter]),
            "last": statistics.median(each[name] for each in samples[-quarter:]),
        }
        for name in samples[0]
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.control.soak", description=__doc__)
    parser.add_argument("--minutes", type=arguments.number(1), default=10)
    parser.add_argument("--out", type=arguments.folder, help=f"where {NAME} goes: beside the other results")
    parser.add_argument("--smoke", action="store_true", help="15 s, few experts; without --out nothing is written")
    given = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="caracal-soak-"))
    console.print(f"logs in {directory}")
    found = run(0.25, 2, 8, directory) if given.smoke else run(given.minutes, LAYERS, EXPERTS, directory)
    print(soak_text(found))
    out = given.out or (None if given.smoke else RESULTS)
    if out is not None:
        (out / NAME).write_text(json.dumps(found, indent=1) + "\n")
        if out == RESULTS:
            documents.update()
    if found["epoch"] < 2:
        sys.exit("no table was published")


if __name__ == "__main__":
    main()
