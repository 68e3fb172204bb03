"""Draws a run of the curriculum: loss and held-out exactness, with the stages behind."""

from __future__ import annotations

from pathlib import Path

from matplotlib import pyplot as plt

from training.experiments.curves import read_log
from training.recipe import Recipe

plt.switch_backend("Agg")


def draw_stages(log: Path, recipe: Recipe, out: Path) -> None:
    """Draws the trunk's log. A stage that met its criterion leaves a gap behind it."""
    assert recipe.curriculum is not None
    steps, checks = read_log(log, "step"), read_log(log, "check")
    figure, loss = plt.subplots(figsize=(9, 4), layout="constrained")
    loss.plot([one["step"] for one in steps], [one["loss"] for one in steps], ".", color="tab:grey", markersize=2)
    loss.set(yscale="log", xlabel="step", ylabel="cross entropy of answer tokens")
    share = loss.twinx()
    share.plot([one["step"] for one in checks], [one["exact"] for one in checks], "o", color="tab:green", markersize=4)
    share.set(ylim=(0, 1.02), ylabel="exact held-out answers of the stage (green)")
    begin = 0
    for number, stage in enumerate(recipe.curriculum.stages):
        loss.axvspan(begin, begin + stage.steps, color=f"C{number}", alpha=0.1, label=stage.name)
        begin += stage.steps
    loss.legend(fontsize="small", ncols=4, loc="lower left")
    figure.savefig(out, dpi=110)
    plt.close(figure)
