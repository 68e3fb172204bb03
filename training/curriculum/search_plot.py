"""Draws the search: the chosen shares, and how well the losses of left-out mixtures were foretold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt

plt.switch_backend("Agg")


def draw(result: dict[str, Any], out: Path) -> None:
    """Draws shares by stage, and for each stage the objective of an even mixture and of the chosen one."""
    kinds, chosen = result["kinds"], result["chosen"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", width_ratios=(2, 1))
    below = [0.0] * len(chosen)
    for kind in kinds:
        shares = [found["shares"][kind] for found in chosen.values()]
        left.barh(list(chosen), shares, left=below, label=kind)
        below = [one + other for one, other in zip(below, shares, strict=True)]
    left.invert_yaxis()
    left.set(xlabel="share of a stage's lessons")
    left.legend(ncols=4, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.15))
    places = range(len(chosen))
    right.plot([found["objective_of_even"] for found in chosen.values()], places, "o", label="even mixture")
    right.plot([found["objective"] for found in chosen.values()], places, "s", label="chosen mixture")
    right.set(yticks=[], xlabel="mean loss, nats, of a fresh small model")
    right.invert_yaxis()
    right.legend(fontsize="small")
    figure.savefig(out, dpi=110)
    plt.close(figure)
