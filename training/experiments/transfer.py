"""`python -m training.experiments.transfer`: are a narrow model's best rate and initial variance a wider one's, too?

Sweeps both on a proxy, and on models twice and four times as wide: with the rules of Adam LR Full Align, and with
rate and variance as they are. Writes transfer.json and transfer.png.
"""

from __future__ import annotations

import argparse
import itertools
import math
from dataclasses import dataclass
from statistics import fmean

from rich.console import Console

from training.experiments.narrow import HEAD, HELD_OUT_DIALOGUES, narrow
from training.experiments.runner import Case, Json, Results, arguments, run_cases, trained, write_result
from training.experiments.transfer_plot import draw
from training.recipe import AdamRecipe, Recipe

NAME = "transfer"
SCALES = (2, 4)
WAYS = {"full align": True, "plain": False}
Losses = list[list[float]]  # held-out, by variance and rate


@dataclass(frozen=True)
class Grid:
    """What is swept: rates of the proxy, and variances of its weights times their inputs."""

    rates: list[float]
    variances: list[float]

    def cases(self, way: str, scale: int, width: int, steps: int, seeds: int) -> list[Case]:
        """Returns the trainings of models that are `scale` times as wide as the proxy, whose width is `width`."""
        return [
            trained(
                case_name(way, scale, rate, variance),
                sized(scale * width, steps, seed, AdamRecipe(rate, variance, float(scale), WAYS[way])),
                HELD_OUT_DIALOGUES,
            )
            for seed, rate, variance in itertools.product(range(1, seeds + 1), self.rates, self.variances)
        ]

    def losses(self, results: Results, way: str, scale: int) -> Losses:
        """Returns the means over seeds."""
        return [
            [
                fmean(one["held_out_loss"] for one in results[case_name(way, scale, rate, variance)].values())
                for rate in self.rates
            ]
            for variance in self.variances
        ]

    def point(self, place: tuple[int, int], losses: Losses) -> Json:
        variance, rate = place
        return {"rate": self.rates[rate], "variance": self.variances[variance], "loss": losses[variance][rate]}


def sized(width: int, steps: int, seed: int, adam: AdamRecipe) -> Recipe:
    """Returns the recipe of a model of one layer."""
    return narrow(width, 1, steps, steps // 2, seed, adam)


def case_name(way: str, scale: int, rate: float, variance: float) -> str:
    return f"{way if scale > 1 else 'proxy'} {scale} {rate:g} {variance:g}"


def best(losses: Losses) -> tuple[int, int]:
    """Returns the place of the lowest loss in the grid; one that is not a number is no low one."""
    places = itertools.product(range(len(losses)), range(len(losses[0])))
    return min(places, key=lambda place: (math.isnan(losses[place[0]][place[1]]), losses[place[0]][place[1]]))


def compared(grid: Grid, losses: Losses, choice: tuple[int, int]) -> Json:
    """Returns how far the proxy's choice is from the best of the target's own sweep, in grid steps and in nats."""
    own = best(losses)
    steps = {"rate": own[1] - choice[1], "variance": own[0] - choice[0]}
    return {
        "best": grid.point(own, losses),
        "transferred": grid.point(choice, losses),
        "steps_from_choice_to_best": steps,
        "within_one_step": max(map(abs, steps.values())) <= 1,
        "loss_above_best": losses[choice[0]][choice[1]] - losses[own[0]][own[1]],
        "losses": losses,
    }


def add_grid(parser: argparse.ArgumentParser) -> None:
    powers = "rates, as powers of two"
    parser.add_argument("--powers", type=int, nargs="+", default=list(range(-9, -2)), help=powers)
    variances = "initial variances, times a matrix's inputs in the proxy"
    parser.add_argument("--variances", type=float, nargs="+", default=[0.25, 1.0, 4.0], help=variances)


def main() -> None:
    given = arguments(NAME, __doc__, seeds=1, steps=80, add=add_grid)
    grid = Grid([2.0**power for power in sorted(set(given.powers))], sorted(set(given.variances)))
    width, steps = HEAD * given.scale, given.steps * given.scale
    cases = grid.cases("full align", 1, width, steps, given.seeds)
    for way, scale in itertools.product(WAYS, SCALES):
        cases += grid.cases(way, scale, width, steps, given.seeds)
    results = run_cases(cases, given.run, Console())
    proxy = grid.losses(results, "full align", 1)
    choice = best(proxy)
    targets = {
        way: {str(scale): compared(grid, grid.losses(results, way, scale), choice) for scale in SCALES} for way in WAYS
    }
    chosen = grid.point(choice, proxy)
    result = {
        "rates": grid.rates,
        "variances": grid.variances,
        "proxy_width": width,
        "proxy": {"best": chosen, "losses": proxy},
        "targets": targets,
    }
    recipe = sized(width, steps, 1, AdamRecipe(chosen["rate"], chosen["variance"]))
    draw(write_result(given.docs, NAME, given, recipe, result), given.docs / f"{NAME}.png")


if __name__ == "__main__":
    main()
