"""Draws pass^1 and pass^k by axis, before and behind each round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt

plt.switch_backend("Agg")


def draw(found: dict[str, Any], out: Path) -> None:
    """Draws a panel for each axis: levels below, passes above."""
    results = found["results"]
    first = next(iter(results.values()))
    powers = [key for key in first if key.startswith("pass")]
    axes = list(first["by_axis"])
    figure, panels = plt.subplots(1, len(axes), figsize=(3 * len(axes), 3.2), sharey=True, layout="constrained")
    for panel, axis in zip(panels, axes, strict=True):
        for color, (name, result) in enumerate(results.items()):
            levels = result["by_axis"][axis]
            for power, line in zip(powers, ("-", "--"), strict=False):
                shares = [level[power] for level in levels.values()]
                panel.plot(list(levels), shares, line, marker="o", color=f"C{color}", label=f"{power} {name}")
        panel.set(title=axis, ylim=(-0.02, 1.02))
    panels[0].set(ylabel="share of held-out tasks")
    panels[-1].legend(fontsize="x-small")
    figure.savefig(out, dpi=110)
    plt.close(figure)
