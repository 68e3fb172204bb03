"""`python -m training.curriculum.search` chooses the mixtures of the stages by small models. Run it again to resume.

Each small model learns from one random mixture, all from as many tokens. A power law of the shares, for every kind of
lesson, foretells the losses of other mixtures; a stage's mixture is the mean of the best of many random ones, for what
the stage is to teach. The chosen ones and an even mixture then train fresh small models: the test.
"""

from __future__ import annotations

import argparse
import json
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
        best = candidates[objective(ahead, aims).argsort()[:BEST]].mean(0)
        chosen[stage] = {
            "shares": dict(zip(KINDS, (round(float(share), 3) for share in best), strict=True)),
            "aims": aims,
            "rank_correlation_left_out": rank_correlation(objective(missed, aims), objective(losses, aims)),
        }
    return chosen


def search(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    rng = np.random.default_rng(arguments.seed)
    even = np.full((1, len(KINDS)), 1 / len(KINDS))
    shares = np.concatenate([even, random_mixtures(rng, arguments.proxies - 1)])
    proxy = Proxy(arguments.run, arguments.tokens)
    losses = [proxy.losses(f"{n:02}", Mixture(*row), arguments.seed, console) for n, row in enumerate(shares.tolist())]
    table = np.array([[loss[kind] for kind in KINDS] for loss in losses])
    chosen = choose(rng, shares, table, arguments.ridge)
    tests: dict[str, Losses] = {}
    named = {"even": Mixture()} | {stage: Mixture.of(found["shares"]) for stage, found in chosen.items()}
    for name, mixture in named.items():
        tests[name] = proxy.losses(f"test {name}".replace(" ", "-"), mixture, arguments.seed + 1, console)
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
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--mixtures", type=Path, default=MIXTURES, help="file of the recipe that is written")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "training" / "mixtures.json")
    arguments = parser.parse_args()
    if arguments.proxies < 3:
        parser.error("--proxies: needs 3 or more")
    torch.set_num_threads(arguments.threads)
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
