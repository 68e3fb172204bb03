"""`python -m training.curriculum.search` chooses the mixtures of the stages by small models. Run it again to resume.

Each small model learns from one random mixture, all from as many tokens. A power law of the shares, for every kind of
lesson, foretells the losses of other mixtures; a stage's mixture is the mean of the best of many random ones, for what
the stage is to teach. The chosen ones and an even mixture then train fresh small models: the test.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from training.curriculum.built_in import MIXTURES
from training.curriculum.proxies import Proxy
from training.curriculum.search_plot import draw
from training.data.corpus import KINDS, Mixture
from training.progress import progress_bar

Losses = dict[str, float]  # of held-out answers, nats per token, by kind
ROOT = Path(__file__).parents[2]
LEAST, MOST = 0.02, 0.4  # shares of a kind, so that no line is followed far beyond what was seen
CANDIDATES, BEST = 40_000, 100

# What a stage is to teach: the weight of each kind's loss in the sum that its mixture makes small.
AIMS: dict[str, dict[str, float]] = {
    "pre-training": dict.fromkeys(KINDS, 1.0) | {"tools": 0.5, "no_tool": 0.5, "agent": 0.25},
    "mid-training": dict.fromkeys(KINDS, 1.0) | {"arithmetic": 2.0, "memory": 2.0, "tools": 4.0, "agent": 4.0},
    "context extension": dict.fromkeys(KINDS, 1.0) | {"memory": 3.0, "tools": 2.0, "agent": 4.0},
    "post-training": dict.fromkeys(KINDS, 1.0)
    | {"no_tool": 4.0, "memory": 2.0, "arithmetic": 2.0, "tools": 4.0, "agent": 4.0},
}
# Shares that a mixture has at least. Small models of one layer do not learn to call tools, whatever their mixture, so
# they cannot say how much of it a model needs that can.
FLOORS: dict[str, dict[str, float]] = {
    "pre-training": {"tools": 0.14, "agent": 0.06},
    "mid-training": {"arithmetic": 0.18, "memory": 0.2, "tools": 0.2, "no_tool": 0.05, "agent": 0.1},
    "context extension": {"arithmetic": 0.14, "memory": 0.2, "tools": 0.18, "no_tool": 0.08, "agent": 0.1},
    "post-training": {"arithmetic": 0.18, "memory": 0.17, "tools": 0.22, "no_tool": 0.11, "agent": 0.13},
}


def random_mixtures(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Returns shares [count, kinds] within the bounds, which add up to 1."""
    found: list[NDArray[np.float64]] = []
    while sum(map(len, found)) < count:
        drawn = LEAST + (1 - LEAST * len(KINDS)) * rng.dirichlet(np.ones(len(KINDS)), count)
        found.append(drawn[drawn.max(1) <= MOST])
    return np.concatenate(found)[:count]


@dataclass(frozen=True)
class PowerLaws:
    """For every kind, the logarithm of its loss as a line in the logarithms of all kinds' shares (ridge regression)."""

    weights: NDArray[np.float64]  # [1 + kinds, kinds]

    @classmethod
    def through(cls, shares: NDArray[np.float64], losses: NDArray[np.float64], ridge: float) -> Self:
        inputs = cls.inputs(shares)
        keep = ridge * np.eye(inputs.shape[1])
        keep[0, 0] = 0.0
        return cls(np.linalg.solve(inputs.T @ inputs + keep, inputs.T @ np.log(losses)).astype(np.float64))

    def foretell(self, shares: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns losses [mixtures, kinds]."""
        ahead: NDArray[np.float64] = np.exp(self.inputs(shares) @ self.weights)
        return ahead

    @classmethod
    def inputs(cls, shares: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns [mixtures, 1 + kinds]; for an even mixture all but the first are 0."""
        return np.hstack([np.ones((len(shares), 1)), np.log(shares * len(KINDS))])


class Exponentials(PowerLaws):
    """The same with the shares themselves, for comparison: they know no diminishing returns."""

    @classmethod
    def inputs(cls, shares: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.hstack([np.ones((len(shares), 1)), shares - 1 / len(KINDS)])


def objective(losses: NDArray[np.float64], aims: dict[str, float]) -> NDArray[np.float64]:
    """Returns the weighted mean of losses [mixtures, kinds], in nats: what is hardly learned yet counts most."""
    weights = np.array([aims[kind] for kind in KINDS])
    value: NDArray[np.float64] = losses @ weights / weights.sum()
    return value


def rank_correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    return float(np.corrcoef(one.argsort().argsort(), other.argsort().argsort())[0, 1])


def left_out(
    laws: type[PowerLaws], shares: NDArray[np.float64], losses: NDArray[np.float64], ridge: float
) -> NDArray[np.float64]:
    """Returns the losses that laws through all other mixtures foretell for each."""
    rows = [
        laws.through(np.delete(shares, row, 0), np.delete(losses, row, 0), ridge).foretell(shares[row : row + 1])
        for row in range(len(shares))
    ]
    return np.concatenate(rows)


def choose(
    rng: np.random.Generator, shares: NDArray[np.float64], losses: NDArray[np.float64], ridge: float
) -> dict[str, Any]:
    """Returns, by stage, the chosen shares and how well left-out mixtures were ranked."""
    laws, candidates = PowerLaws.through(shares, losses, ridge), random_mixtures(rng, CANDIDATES)
    ahead, missed = laws.foretell(candidates), left_out(PowerLaws, shares, losses, ridge)
    chosen = {}
    for stage, aims in AIMS.items():
        best = raised(candidates[objective(ahead, aims).argsort()[:BEST]].mean(0), FLOORS.get(stage, {}))
        chosen[stage] = {
            "shares": dict(zip(KINDS, (round(float(share), 3) for share in best), strict=True)),
            "aims": aims,
            "floors": FLOORS.get(stage, {}),
            "rank_correlation_left_out": rank_correlation(objective(missed, aims), objective(losses, aims)),
        }
    return chosen


def raised(share_K: NDArray[np.float64], floors: Mapping[str, float]) -> NDArray[np.float64]:
    """Returns the shares of one mixture with none below its floor; the others give what that takes, in proportion."""
    has_floor = np.array([kind in floors for kind in KINDS])
    raised_K = np.maximum(share_K, [floors.get(kind, 0.0) for kind in KINDS])
    rest = (1 - raised_K[has_floor].sum()) / share_K[~has_floor].sum()
    return np.where(has_floor, raised_K, share_K * rest)


def train(proxy: Proxy, name: str, mixture: Mixture, seed: int, threads: int) -> Losses:
    """Returns one small model's losses. A process of its own runs this, whose progress goes into a file."""
    torch.set_num_threads(threads)
    proxy.path.mkdir(parents=True, exist_ok=True)
    with (proxy.path / f"{name}.log").open("w", encoding="utf-8") as log:
        return proxy.losses(name, mixture, seed, Console(file=log))


def train_all(
    proxy: Proxy, mixtures: Mapping[str, Mixture], seed: int, arguments: argparse.Namespace, console: Console
) -> list[Losses]:
    """Returns the losses in the mixtures' order; so many small models as asked for are trained at a time."""
    spawn = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(arguments.processes, mp_context=spawn) as pool,
        progress_bar(console, f"small models, seed {seed}", 0, len(mixtures)) as update,
    ):
        futures = [
            pool.submit(train, proxy, name, mixture, seed, arguments.threads) for name, mixture in mixtures.items()
        ]
        for count, one in enumerate(as_completed(futures), 1):
            update(count, f"mean loss {np.mean(list(one.result().values())):.3f}", None)
        return [one.result() for one in futures]


def search(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    rng = np.random.default_rng(arguments.seed)
    even = np.full((1, len(KINDS)), 1 / len(KINDS))
    shares = np.concatenate([even, random_mixtures(rng, arguments.proxies - 1)])
    proxy = Proxy(arguments.run, arguments.tokens)
    mixtures = {f"{n:02}": Mixture(*row) for n, row in enumerate(shares.tolist())}
    losses = train_all(proxy, mixtures, arguments.seed, arguments, console)
    table = np.array([[loss[kind] for kind in KINDS] for loss in losses])
    chosen = choose(rng, shares, table, arguments.ridge)
    named = {"even": Mixture()} | {stage: Mixture.of(found["shares"]) for stage, found in chosen.items()}
    folders = {f"test {name}".replace(" ", "-"): mixture for name, mixture in named.items()}
    tests = dict(zip(named, train_all(proxy, folders, arguments.seed + 1, arguments, console), strict=True))
    for stage, found in chosen.items():
        values = np.array([[tests[name][kind] for kind in KINDS] for name in ("even", stage)])
        found["objective_of_even"], found["objective"] = objective(values, AIMS[stage]).tolist()
    foretold = {laws.__name__: left_out(laws, shares, table, arguments.ridge) for laws in (PowerLaws, Exponentials)}
    return {
        "kinds": list(KINDS),
        "left_out_log_error": {name: float(np.abs(np.log(row / table)).mean()) for name, row in foretold.items()},
        "proxies": [{"shares": row, "losses": loss} for row, loss in zip(shares.tolist(), losses, strict=True)],
        "chosen": chosen,
        "tests": tests,
        "settings": {"tokens": arguments.tokens, "seed": arguments.seed, "ridge": arguments.ridge}
        | {"model": asdict(proxy.model)},
        "date": datetime.now(UTC).date().isoformat(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.curriculum.search", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--run", type=Path, default=ROOT / "training" / "runs" / "mixtures", help="folder of the proxies"
    )
    parser.add_argument("--proxies", type=int, default=24, help="small models, one for each mixture")
    parser.add_argument("--tokens", type=int, default=600_000, help="that each learns from")
    parser.add_argument("--ridge", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2, help="small models that are trained at a time")
    parser.add_argument("--threads", type=int, default=1, help="of each")
    parser.add_argument("--mixtures", type=Path, default=MIXTURES, help="file of the recipe that is written")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "training" / "mixtures.json")
    arguments = parser.parse_args()
    if arguments.proxies < 3:
        parser.error("--proxies: needs 3 or more")
    if min(arguments.processes, arguments.threads) < 1:
        parser.error("--processes and --threads: need 1 or more")
    console = Console()
    result = search(arguments, console)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    draw(result, arguments.out.with_suffix(".png"))
    mixtures = {stage: found["shares"] for stage, found in result["chosen"].items()}
    arguments.mixtures.write_text(json.dumps(mixtures, indent=1) + "\n", encoding="utf-8")
    for stage, found in result["chosen"].items():
        console.print(
            f"{stage}: {found['shares']}, mean loss {found['objective']:.3f}, even {found['objective_of_even']:.3f}"
        )


if __name__ == "__main__":
    main()
