"""`python -m training.experiments.growth`: a model grown from half its depth, against one that begins with all of it.

Both have spent as many floating-point operations in the end, counted with the experts that each token chose. Rates fall
over the same last steps of the whole depth. Writes growth.json and growth.png.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from matplotlib import pyplot as plt
from rich.console import Console

from training.data.batches import batch
from training.data.dialogues import dialogues
from training.data.tokenizer import train_tokenizer
from training.experiments.curves import Curve, difference, smooth, spread
from training.experiments.narrow import HEAD, HELD_OUT_DIALOGUES, narrow
from training.experiments.runner import Json, Results, arguments, run_cases, trained, write_result
from training.model.flops import step_flops
from training.model.longcat_flash import LongcatFlash
from training.recipe import AdamRecipe, GrowthRecipe, Recipe

plt.switch_backend("Agg")
NAME = "growth"
LAYERS, FACTOR = 4, 2
WINDOW = 15  # steps that a point of the plot is the mean of
COLORS = {"grown": "tab:blue", "from the start": "tab:orange"}


def grown_recipe(given_steps: int, scale: int, seed: int) -> Recipe:
    """Two thirds of the steps with half the layers: about half of the operations."""
    adam = AdamRecipe(rate=2.0**-7, variance=1.0, scale=2.0 * scale)
    recipe = narrow(2 * HEAD * scale, LAYERS, given_steps * scale, given_steps * scale // 6, seed, adam)
    growth = GrowthRecipe(max(1, 2 * given_steps * scale // 3), FACTOR)
    return replace(recipe, growth=growth, trunk=replace(recipe.trunk, log_every=1))


def growth_step(recipe: Recipe) -> int:
    assert recipe.growth
    return recipe.growth.step


def deep_steps(recipe: Recipe, flops: float) -> int:
    """Returns how many steps of the whole depth cost as much, when tokens choose as many FFN experts as they should."""
    plan, controller = recipe.trunk, recipe.controller
    assert controller
    tokenizer = train_tokenizer(recipe.seed, recipe.model.vocab_size, plan.tokenizer_dialogues)
    model, spent, steps = LongcatFlash(recipe.model), 0.0, 0
    while True:
        step = batch(tokenizer, dialogues(recipe.seed, steps * plan.batch_dialogues, plan.batch_dialogues), plan.groups)
        experts = round(len(step.ids_T) * controller.ffn_experts * recipe.model.num_layers)
        cost = step_flops(model, step.groups, len(step.wanted_A), experts)
        if spent + cost / 2 > flops and steps >= 2:
            return steps
        spent, steps = spent + cost, steps + 1


def whole_recipe(recipe: Recipe, steps: int) -> Recipe:
    """Returns the recipe without growth, whose rates fall over as many steps."""
    decay = recipe.trunk.steps - recipe.trunk.rates[1][0]
    rates = ((0, 1.0), (max(1, steps - decay), 1.0), (steps, 0.0))
    trunk = replace(recipe.trunk, steps=steps, rates=rates, check_every=steps)
    return replace(recipe, growth=None, trunk=trunk)


def curve(result: Json) -> Curve:
    """Returns (operations, loss), smoothed."""
    return smooth([(step["flops"], step["loss"]) for step in result["steps"]], WINDOW)


def draw(results: Results, at: int, out: Path) -> None:
    """Draws every seed's line, because no two have spent the same at a step."""
    figure, axis = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for variant, seeds in results.items():
        for seed, result in seeds.items():
            points = curve(result)
            label = variant if seed == 1 else None
            axis.plot(*zip(*points, strict=True), color=COLORS[variant], linewidth=0.9, label=label)
    stacked = results["grown"][1]["steps"][at - 1]["flops"]
    axis.axvline(stacked, color="tab:grey", linestyle=":", label="layers stacked (seed 1)")
    axis.set(xlabel="floating-point operations of all steps", ylabel=f"training loss, mean of {WINDOW} steps, nats")
    axis.set(yscale="log")
    axis.legend()
    figure.savefig(out, dpi=110)
    plt.close(figure)


def summary(results: Results, at: int) -> Json:
    """Returns losses and costs; `at` is the step of the growth."""
    losses = {
        variant: {seed: one["held_out_loss"] for seed, one in seeds.items()} for variant, seeds in results.items()
    }
    grown = results["grown"].values()
    around = [
        {
            "before": fmean(step["loss"] for step in one["steps"][max(0, at - WINDOW) : at]),
            "first": one["steps"][at]["loss"],
            "after": [step["loss"] for step in one["steps"][at : at + WINDOW]],
        }
        for one in grown
    ]
    curves = {
        variant: {seed: [[round(x), round(y, 4)] for x, y in curve(one)[::5]] for seed, one in seeds.items()}
        for variant, seeds in results.items()
    }
    return {
        "layers": {"at_first": LAYERS // FACTOR, "in_the_end": LAYERS, "grown_at_step": at},
        "flops": {variant: [one["steps"][-1]["flops"] for one in seeds.values()] for variant, seeds in results.items()},
        "steps": {variant: [one["steps"][-1]["step"] for one in seeds.values()] for variant, seeds in results.items()},
        "share_of_flops_before_growth": [one["steps"][at - 1]["flops"] / one["steps"][-1]["flops"] for one in grown],
        "held_out_loss": {variant: spread(list(values.values())) for variant, values in losses.items()},
        "grown_minus_from_the_start": difference(losses["grown"], losses["from the start"]),
        "training_loss_around_growth": around,
        "flops_and_smoothed_training_loss": curves,
    }


def main() -> None:
    given = arguments(NAME, __doc__, seeds=3, steps=300)
    if given.steps < 2:
        sys.exit("error: --steps is 1; a run that grows has at least 2")
    console = Console()
    recipes = {seed: grown_recipe(given.steps, given.scale, seed) for seed in range(1, given.seeds + 1)}
    results = run_cases(
        (trained("grown", recipe, HELD_OUT_DIALOGUES) for recipe in recipes.values()), given.run, console
    )

    def whole() -> Iterator[Recipe]:
        for seed, recipe in recipes.items():
            yield whole_recipe(recipe, deep_steps(recipe, results["grown"][seed]["steps"][-1]["flops"]))

    results |= run_cases(
        (trained("from the start", recipe, HELD_OUT_DIALOGUES) for recipe in whole()), given.run, console
    )
    at = growth_step(recipes[1])
    write_result(given.docs, NAME, given, recipes[1], summary(results, at))
    draw(results, at, given.docs / f"{NAME}.png")


if __name__ == "__main__":
    main()
