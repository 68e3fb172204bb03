"""`python -m bench.studies.replicas`: how many replicas of hot experts pay.

Minute by minute the leader's policy gets a load that is skewed and drifts; what is shown is the step of the
last minutes, of 32 sequences on each of 64 attention workers, with experts on 128 workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.studies.large import deployment
from bench.studies.progress import progress
from bench.studies.study import Options, Panel, study
from services.router.placement.load import Load
from services.router.placement.policy import WorkerView, place
from services.simulator.deployment import Deployment
from services.simulator.expert_pool import ExpertPool
from services.simulator.routing import Popularity, Routing
from services.simulator.step_time import StepTimes, StepWork

SKEWS = (0.2, 0.4, 0.8)
EXTRAS = (0, 4, 16, 32, 64, 128)
MINUTES, COUNTED, WINDOW_S, MOVES = 24, 8, 120.0, 256
SEQUENCES, CONTEXT, TOKENS_S = 32, 2000.0, 50_000.0


def step_ms(shaped: Deployment, pool: ExpertPool) -> float:
    times = StepTimes(shaped, pool)
    times.callers, times.rows = shaped.attention, float(SEQUENCES)
    return 1e3 * times.seconds(StepWork(SEQUENCES, 0, SEQUENCES * CONTEXT, 0.0))


def last_minutes(shaped: Deployment, exponent: float, extra: int, minutes: int, seed: int) -> dict[str, float]:
    """The step's mean over the last minutes, and how many experts were loaded in a minute of them."""
    shape, rng = shaped.shape, np.random.default_rng([seed, 4])
    popularity = Popularity(Routing(exponent=exponent, drift_s=60.0 * MINUTES), shape.layers, shape.experts, seed)
    workers = [WorkerView(f"expert-{number}") for number in range(shaped.experts)]
    table = place(shape.experts, shape.layers, workers, 1)
    pool = ExpertPool(shaped, table, popularity.at(0.0))
    steps, loaded = [], []
    rate = TOKENS_S * shape.ffn_choices
    for minute in range(minutes):
        pool.share_LE = popularity.at(60.0 * minute)
        pool.update()
        steps.append(step_ms(shaped, pool))
        rows_E = rng.poisson(rate * WINDOW_S * pool.share_LE.ravel()) / WINDOW_S
        load = Load(rows_E, WINDOW_S)
        pool.table = place(shape.experts, shape.layers, workers, 1, table, load, extra, MOVES)
        loaded.append(int((pool.table.placed_EW & ~table.columns(pool.table.worker_ids)).sum()))
        table = pool.table
    counted = steps[-COUNTED:]
    return {"step_ms": float(np.mean(counted)), "loaded_per_minute": float(np.mean(loaded[-COUNTED:]))}


def run(options: Options) -> tuple[dict[str, Any], Sequence[Panel]]:
    shaped = deployment(4, 8) if options.smoke else deployment(64, 128)
    skews, extras = (SKEWS[:1], EXTRAS[:2]) if options.smoke else (SKEWS, EXTRAS)
    minutes = 2 if options.smoke else MINUTES
    gb_each = shaped.expert_bytes * shaped.shape.layers / 1e9
    rows: list[dict[str, float]] = []
    with progress(len(skews) * len(extras)) as show:
        for skew in skews:
            for extra in extras:
                found = last_minutes(shaped, skew, extra, minutes, options.seed)
                rows.append({"skew": skew, "extra": extra, "gb": extra * gb_each} | found)
                show(len(rows))
    even = step_ms(shaped, _even(shaped))
    by_skew = {f"exponent {skew:g}": [row for row in rows if row["skew"] == skew] for skew in skews}
    panels = [
        Panel(
            title="step of 32 sequences",
            across="more replicas in a layer",
            up="ms",
            lines={name: [(row["extra"], row["step_ms"]) for row in its] for name, its in by_skew.items()}
            | {"even choices": [(extra, even) for extra in extras]},
        ),
        Panel(
            title="experts loaded for balance",
            across="more replicas in a layer",
            up="a minute",
            lines={name: [(row["extra"], row["loaded_per_minute"]) for row in its] for name, its in by_skew.items()},
        ),
    ]
    return {"even_step_ms": even, "rows": rows}, panels


def _even(shaped: Deployment) -> ExpertPool:
    shape = shaped.shape
    workers = [WorkerView(f"expert-{number}") for number in range(shaped.experts)]
    share_LE = np.full((shape.layers, shape.experts), 1 / shape.experts)
    return ExpertPool(shaped, place(shape.experts, shape.layers, workers, 1), share_LE)


if __name__ == "__main__":
    study("replicas", __doc__, run)
