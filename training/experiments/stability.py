"""Trains a small model with and without each part that keeps a run stable, undisturbed and disturbed on purpose."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from matplotlib import pyplot as plt
from rich.console import Console
from rich.table import Table

from training.experiments.curves import draw_seeds
from training.experiments.proxy import proxy
from training.experiments.runner import Json, Results, arguments, run_cases, trained, write_result
from training.recipe import BalanceRecipe, DisturbanceRecipe, HiddenRecipe, MonitorRecipe, Recipe

NAME = "stability"
WITH, WITHOUT = "disturbed, with the suite", "disturbed, without the suite"
LIMITED, UNLIMITED = "α limited", "α not limited"
HIDDEN = "hidden z-loss"
ADAM = {1e-16: "ε = 1e-16", 1e-8: "ε = 1e-8", 1e-4: "ε = 1e-4"}
RATE = 30.0  # of the learning rates while they are too high


def disturbed(base: Recipe) -> Recipe:
    """Returns the recipe with three bad batches after two fifths of the steps, and five steps of too high a rate after
    three fifths."""
    steps = base.trunk.steps
    bad, high = 2 * steps // 5, 3 * steps // 5
    usual = 2 - 2 * high / steps  # of the proxy's rates there: they fall from the half of the steps on
    rates = ((0, 1.0), (steps // 2, 1.0), (high - 1, usual), (high, RATE), (high + 4, RATE), (high + 5, usual))
    return replace(
        base,
        trunk=replace(base.trunk, rates=(*rates, (steps, 0.0))),
        disturbance=DisturbanceRecipe((bad, bad + 1, bad + 2)),
    )


def without_suite(base: Recipe) -> Recipe:
    return replace(base, balance=None, hidden=None, trunk=replace(base.trunk, adam_epsilon=1e-8))


def undisturbed(base: Recipe) -> dict[str, Recipe]:
    """Returns the variants that differ from none of the parts by one."""
    plain = replace(base, balance=None, hidden=None)
    return {
        LIMITED: replace(plain, balance=BalanceRecipe(weight=0.1)),
        UNLIMITED: replace(plain, balance=BalanceRecipe(weight=0.1, gradient_ratio=None)),
        HIDDEN: replace(plain, hidden=HiddenRecipe(weight=1e-3)),
        **{name: replace(plain, trunk=replace(base.trunk, adam_epsilon=epsilon)) for epsilon, name in ADAM.items()},
    }


def summary(one: Json) -> Json:
    """Returns what the monitors of a run read at its end, and the extremes on the way."""
    readings = [step["readings"] for step in one["steps"]]
    losses = [step["loss"] for step in one["steps"]]
    last = readings[-1]
    fifth = len(losses) // 5  # before it, the language model's gradient at routers is next to nothing
    ratios = [max(reading["gradient_ratio"]) for reading in readings[fifth:] if reading["gradient_ratio"]]
    return {
        "held_out_loss": one["held_out_loss"],
        "spikes": last["spikes"],
        "spike_steps": last["spike_steps"],
        "highest_loss_after_a_fifth": max(losses[fifth:]),
        "highest_gradient_ratio_after_a_fifth": max(ratios, default=None),
        "router_cosine": last["router_cosine"],
        "hidden_norm": last["hidden_norm"],
        "hidden_max": max(r["hidden_max"] for r in readings),
        "gradient_rms": min(r["gradient_rms"] for r in readings),
        "gradient_rms_least": min(r["gradient_rms_least"] for r in readings if r["gradient_rms_least"]),
    }


def draw(results: Results, out: Path) -> None:
    figure, axes = plt.subplots(2, 3, figsize=(15, 8), sharex=True, layout="constrained")

    def panel(number: int, title: str, named: tuple[str, ...], of: str, log: bool = True) -> None:
        axis = axes.flat[number]
        for color, variant in enumerate(named):
            curves = [[(s["step"], _value(s, of)) for s in one["steps"]] for one in results[variant].values()]
            draw_seeds(axis, curves, variant, f"C{color}")
        axis.set(title=title, xlabel="step", yscale="log" if log else "linear")
        axis.legend(fontsize="small")

    plain = ADAM[1e-16]
    panel(0, "loss with bad batches, then too high a rate", (WITH, WITHOUT), "loss")
    panel(1, "R_g, layer 0", (LIMITED, UNLIMITED), "gradient_ratio")
    axes.flat[1].axhline(0.1, color="black", linewidth=0.6)
    panel(2, "mean cosine of router rows, layer 0", (LIMITED, UNLIMITED, plain), "router_cosine", log=False)
    panel(3, "largest activation of the last layer", (HIDDEN, plain), "hidden_max")
    panel(4, "loss by Adam's ε", tuple(ADAM.values()), "loss")
    panel(5, "RMS of the gradient, of the least parameter", tuple(ADAM.values()), "gradient_rms_least")
    figure.savefig(out, dpi=110)
    plt.close(figure)


def _value(step: Json, name: str) -> float:
    value = step["loss"] if name == "loss" else step["readings"][name]
    return float(value[0] if isinstance(value, list) else value)


def show(found: dict[str, dict[int, Json]], console: Console) -> None:
    names = (
        "held_out_loss",
        "spikes",
        "spike_steps",
        "highest_gradient_ratio_after_a_fifth",
        "hidden_max",
        "gradient_rms_least",
    )
    table = Table("variant", "seed", *(name.replace("_", " ").replace("held out", "held-out") for name in names))
    for variant, seeds in found.items():
        for seed, one in seeds.items():
            table.add_row(variant, str(seed), *("" if one[name] is None else f"{one[name]:.4g}" for name in names))
    console.print(table)


def main() -> None:
    given = arguments(NAME, __doc__, seeds=2, steps=150)
    base, console = proxy(given.steps, given.scale), Console()
    base = replace(base, monitors=MonitorRecipe(every=1))
    cases = [
        trained(variant, replace(recipe, seed=seed))
        for variant, recipe in ((WITH, disturbed(base)), (WITHOUT, disturbed(without_suite(base))))
        for seed in range(1, given.seeds + 1)
    ]
    cases += [trained(variant, recipe) for variant, recipe in undisturbed(base).items()]
    results = run_cases(cases, given.run, console)
    found = {variant: {seed: summary(one) for seed, one in seeds.items()} for variant, seeds in results.items()}
    show(found, console)
    curves = {
        variant: {seed: [round(step["loss"], 4) for step in one["steps"]] for seed, one in seeds.items()}
        for variant, seeds in results.items()
    }
    path = write_result(given.docs, NAME, given, base, {"summary": found, "loss_by_step": curves})
    draw(results, path.with_suffix(".png"))


if __name__ == "__main__":
    main()
