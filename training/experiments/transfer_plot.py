"""Draws transfer.json: held-out loss by learning rate, a line for each width."""

from __future__ import annotations

import json
from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from training.experiments.runner import Json

plt.switch_backend("Agg")
COLORS = {"1": "tab:grey", "2": "tab:blue", "4": "tab:orange"}
SHOWN = 2.0  # nats above the lowest loss


def draw(path: Path, out: Path) -> None:
    """Draws a row for each way to transfer, and a column for each initial variance."""
    result: Json = json.loads(path.read_text(encoding="utf-8"))
    ways, variances = result["targets"], result["variances"]
    size = (3.0 * len(variances), 3.2 * len(ways))
    figure, axes = plt.subplots(
        len(ways), len(variances), figsize=size, sharex=True, sharey=True, layout="constrained", squeeze=False
    )
    lowest = min(min(row) for targets in ways.values() for one in targets.values() for row in one["losses"])
    for row, (way, targets) in zip(axes, ways.items(), strict=True):
        for column, (axis, variance) in enumerate(zip(row, variances, strict=True)):
            for scale, one in ({"1": result["proxy"]} | targets).items():
                _line(axis, result, scale, one, column)
            axis.set(title=f"{way}, σ² × inputs {variance:g}", ylim=(lowest - 0.1, lowest + SHOWN))
        row[0].set(ylabel="held-out loss, nats")
    for axis in axes[-1]:
        axis.set(xlabel="η of the proxy")
    axes[0][0].legend(fontsize="small")
    figure.savefig(out, dpi=110)
    plt.close(figure)


def _line(axis: Axes, result: Json, scale: str, one: Json, column: int) -> None:
    """Draws one width; a ring is round the best of its whole grid."""
    label = f"width {int(scale) * result['proxy_width']}"
    axis.semilogx(result["rates"], one["losses"][column], "o-", base=2, color=COLORS[scale], markersize=3, label=label)
    best = one["best"]
    if result["variances"][column] == best["variance"]:
        axis.plot(best["rate"], best["loss"], "o", color=COLORS[scale], markersize=11, fillstyle="none")
