"""Trains a small model with and without what holds the FFN experts per token: bias controller and balance loss."""

from __future__ import annotations

import statistics
from dataclasses import replace

from matplotlib import pyplot as plt
from rich.console import Console
from rich.table import Table

from training.experiments.curves import read_rows
from training.experiments.proxy import proxy
from training.experiments.runner import Json, Results, arguments, run_cases, trained, write_result
from training.recipe import BalanceRecipe, ControllerRecipe, Recipe

NAME = "compute-budget"
TARGET = 4.0  # K_e
RATE = 1.0  # μ; a run of a tenth of the built-in model's steps needs more than its 0.2 to follow the router
LAST = 5  # the mean over the last fifth of the steps is compared with the target


def variants(base: Recipe) -> dict[str, Recipe]:
    """Returns the recipes: each is `base` but for controller and balance loss."""
    usual = ControllerRecipe(ffn_experts=TARGET, bias_rate=RATE)
    with_terms = replace(usual, integral=0.02, derivative=0.5)
    too_large = replace(usual, bias_rate=50 * RATE, decay_floor=1.0)
    uncapped = BalanceRecipe(ffn_experts=TARGET, weight=0.1, gradient_ratio=None)
    none = replace(base, controller=None, balance=None)
    return {
        "as printed, μ decays": replace(none, controller=usual),
        "with integral and derivative": replace(none, controller=with_terms),
        "with the balance loss beside it": replace(none, controller=usual, balance=BalanceRecipe(ffn_experts=TARGET)),
        "the balance loss alone, α not limited": replace(none, balance=uncapped),
        "neither": none,
        "μ 50 times as large, constant": replace(none, controller=too_large),
    }


def summary(result: Json) -> Json:
    """Returns, by layer, what the last fifth of a run's steps used."""
    last = result["steps"][-max(1, len(result["steps"]) // LAST) :]
    layers = range(len(last[0]["mean"]))
    means = [[step["mean"][layer] for step in last] for layer in layers]
    return {
        "ffn_experts": [statistics.fmean(mean) for mean in means],
        "off_target": [statistics.fmean(mean) / TARGET - 1 for mean in means],
        "std_over_tokens": [statistics.fmean(step["std"][layer] for step in last) for layer in layers],
        "std_over_steps": [statistics.pstdev(mean) for mean in means],
        "busiest": [statistics.fmean(step["busiest"][layer] for step in last) for layer in layers],
        "held_out_loss": result["held_out_loss"],
    }


def draw(results: Results, out: str) -> None:
    figure, axes = plt.subplots(2, 3, figsize=(13, 7), sharex=True, sharey=True, layout="constrained")
    for axis, (variant, seeds) in zip(axes.flat, results.items(), strict=True):
        steps = next(iter(seeds.values()))["steps"]
        for layer, (mean, std) in enumerate(zip(read_rows(steps, "mean"), read_rows(steps, "std"), strict=True)):
            at, color = [step["step"] for step in steps], f"C{layer}"
            axis.plot(at, mean, color=color, linewidth=0.9, label=f"layer {layer}")
            low, high = zip(*((m - s, m + s) for m, s in zip(mean, std, strict=True)), strict=True)
            axis.fill_between(at, low, high, color=color, alpha=0.1, linewidth=0)
        axis.axhline(TARGET, color="black", linewidth=0.6)
        axis.set(title=variant, ylim=(0, 6))
        axis.legend(fontsize="small")
    figure.supxlabel("step")
    figure.supylabel("FFN experts per token; band: ± one std over tokens")
    figure.savefig(out, dpi=110)
    plt.close(figure)


def main() -> None:
    given = arguments(NAME, __doc__, seeds=1, steps=200)
    base, console = proxy(given.steps, given.scale), Console()
    cases = [
        trained(variant, replace(recipe, seed=seed))
        for variant, recipe in variants(base).items()
        for seed in range(1, given.seeds + 1)
    ]
    results = run_cases(cases, given.run, console)
    found = {variant: {seed: summary(one) for seed, one in seeds.items()} for variant, seeds in results.items()}
    table = Table(
        "variant", "FFN experts per token by layer, last fifth", "off target", "std over tokens", "held-out loss"
    )
    for variant, seeds in found.items():
        one = seeds[1]
        means, off = (" ".join(f"{value:.3f}" for value in one[name]) for name in ("ffn_experts", "off_target"))
        std = " ".join(f"{value:.2f}" for value in one["std_over_tokens"])
        table.add_row(variant, means, off, std, f"{one['held_out_loss']:.4f}")
    console.print(table)
    curves = {
        variant: {
            seed: [{"step": s["step"], "mean": s["mean"], "std": s["std"]} for s in one["steps"]]
            for seed, one in seeds.items()
        }
        for variant, seeds in results.items()
    }
    path = write_result(given.docs, NAME, given, base, {"target": TARGET, "last_fifth": found, "curves": curves})
    draw(results, str(path.with_suffix(".png")))


if __name__ == "__main__":
    main()
