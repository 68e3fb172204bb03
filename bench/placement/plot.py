"""Plots of a simulation: a panel for each load, a line for each policy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

COLUMNS = 3
STYLES = ("k-", "C0--", "C0-", "C1--", "C1-")


def plot(skews: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draws the step's time over that of even loads, minute by minute."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = -(-len(skews) // COLUMNS)
    figure, panels = pyplot.subplots(rows, COLUMNS, figsize=(4 * COLUMNS, 3 * rows), squeeze=False)
    for panel in panels.flat[len(skews) :]:
        panel.set_visible(False)
    for panel, (name, policies) in zip(panels.flat, skews.items(), strict=False):
        for style, (policy, found) in zip(STYLES, policies.items(), strict=True):
            panel.plot(found["step_by_minute"], style, label=policy, linewidth=1)
        panel.set_ylim(bottom=0.95)
        panel.set_title(name, fontsize="medium")
        panel.set_xlabel("minute")
        panel.set_ylabel("step / even step")
    panels[0][0].legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
