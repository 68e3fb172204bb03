"""Plots of a sweep: one panel per axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COLUMNS = 3
ROLES = ("router", "attention_worker", "expert_worker")


def plot(axes: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Draws inter-token latency and CPU time of a step by process, both in ms, over what each axis varies."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = -(-len(axes) // COLUMNS)
    figure, panels = pyplot.subplots(rows, COLUMNS, figsize=(4 * COLUMNS, 3.2 * rows), squeeze=False)
    for panel in panels.flat[len(axes) :]:
        panel.set_visible(False)
    for panel, (name, points) in zip(panels.flat, axes.items(), strict=False):
        at = [point["at"] for point in points]
        panel.plot(at, [point["inter_token_ms"] for point in points], "ko-", label="inter-token latency")
        for role in ROLES:
            spent = [point["cpu_ms_per_step"][role] for point in points]
            panel.plot(at, spent, ".--", label=f"CPU of a step, {role.replace('_', ' ')}")
        panel.set_xscale("log", base=2)
        panel.set_xticks(at, [str(each) for each in at])
        panel.set_ylim(bottom=0)
        panel.set_xlabel(name)
        panel.set_ylabel("ms")
    panels[0][0].legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
