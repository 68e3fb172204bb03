"""Trains a small model with and without the shortcut, and with and without variance alignment."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from rich.console import Console
from rich.table import Table

from training.experiments.curves import curve_of, difference, draw_seeds, smooth, spread
from training.experiments.proxy import proxy
from training.experiments.runner import Json, Results, arguments, run_cases, trained, write_result
from training.experiments.variances import variances
from training.model.config import Architecture
from training.recipe import Recipe

NAME = "architecture"
SHORTCUT, NONE = "shortcut", "no shortcut"
ALIGNED, NO_ALPHA, NO_GAMMA = "aligned", "without α", "without γ"
# What is compared with what. The second three begin with matrices of one variance, as the report assumes.
COMPARED = ((SHORTCUT, NONE), (ALIGNED, NO_ALPHA), (ALIGNED, NO_GAMMA))
ALIGNMENT_SEEDS = 1  # of the alignments' losses; their claim is about variances
WINDOW = 10  # steps; of the curves' means


def variants(base: Recipe) -> dict[str, Recipe]:
    """Returns the recipes: each is `base` but for its architecture."""
    plain = replace(base, balance=None, hidden=None, monitors=None)
    aligned = Architecture(one_variance=True)
    return {
        SHORTCUT: plain,
        NONE: replace(plain, architecture=Architecture(shortcut=False)),
        ALIGNED: replace(plain, architecture=aligned),
        NO_ALPHA: replace(plain, architecture=replace(aligned, attention_alignment=False)),
        NO_GAMMA: replace(plain, architecture=replace(aligned, expert_alignment=False)),
    }


def held_out(results: Results, variant: str) -> dict[int, float]:
    return {seed: one["held_out_loss"] for seed, one in results[variant].items()}


def comparisons(results: Results) -> Json:
    """Returns, for each of `COMPARED`, the spread of the difference of held-out losses over the seeds."""
    return {
        f"{ours} - {other}": difference(held_out(results, ours), held_out(results, other)) for ours, other in COMPARED
    }


def draw(results: Results, measured: dict[str, Any], out: Path) -> None:
    figure, axes = plt.subplots(2, 2, figsize=(12, 8), layout="constrained")
    for axis, group in zip(axes[0], ((SHORTCUT, NONE), (ALIGNED, NO_ALPHA, NO_GAMMA)), strict=True):
        for number, variant in enumerate(group):
            curves = [smooth(curve_of(one["steps"], "loss"), WINDOW) for one in results[variant].values()]
            draw_seeds(axis, curves, variant, f"C{number}")
        axis.set(xlabel="step (equal tokens)", ylabel=f"loss, mean of {WINDOW} steps; band: all seeds")
        axis.legend()
    labels = {"attention": "variance at initialisation", "experts": "variance of the MoE over that of m = 1"}
    for axis, (name, label) in zip(axes[1], labels.items(), strict=True):
        rows = measured[name]
        for number, (variant, row) in enumerate(rows.items()):
            places = [place + 0.8 * number / len(rows) for place in range(len(row))]
            axis.bar(places, list(row.values()), width=0.8 / len(rows), label=variant)
        axis.set_xticks([place + 0.3 for place in range(len(row))], list(row))
        axis.set(yscale="log", ylabel=label)
        axis.legend(fontsize="small")
    figure.savefig(out, dpi=110)
    plt.close(figure)


def show(results: Results, compared: Json, measured: dict[str, Any], console: Console) -> None:
    table = Table("variant", "held-out loss", "± over seeds")
    for variant in results:
        found = spread(list(held_out(results, variant).values()))
        table.add_row(variant, f"{found['mean']:.4f}", f"{found['std']:.4f}")
    for name, found in compared.items():
        table.add_row(name, f"{found['mean']:+.4f}", f"{found['std']:.4f}")
    console.print(table)
    for rows in measured.values():
        table = Table("variance", *next(iter(rows.values())))
        for name, row in rows.items():
            table.add_row(name, *(f"{value:.3f}" for value in row.values()))
        console.print(table)


def main() -> None:
    given = arguments(NAME, __doc__, seeds=3, steps=150)
    base, console = proxy(given.steps, given.scale), Console()
    fewer = min(given.seeds, ALIGNMENT_SEEDS)
    seeds = {variant: given.seeds if variant in (SHORTCUT, NONE) else fewer for variant in variants(base)}
    cases = [
        trained(variant, replace(recipe, seed=seed))
        for seed in range(1, given.seeds + 1)
        for variant, recipe in variants(base).items()
        if seed <= seeds[variant]
    ]
    results, measured = run_cases(cases, given.run, console), variances()
    compared = comparisons(results)
    show(results, compared, measured, console)
    losses = {variant: spread(list(held_out(results, variant).values())) for variant in results}
    curves = {
        variant: {seed: [round(step["loss"], 4) for step in one["steps"]] for seed, one in seeds.items()}
        for variant, seeds in results.items()
    }
    found = {"held_out_loss": losses, "difference": compared, "variances": measured, "loss_by_step": curves}
    path = write_result(given.docs, NAME, given, base, found)
    draw(results, measured, path.with_suffix(".png"))


if __name__ == "__main__":
    main()
