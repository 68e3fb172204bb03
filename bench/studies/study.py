"""What all studies share: their options, and the files that they write."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.arguments import folder, number
from bench.processes import REPO

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STUDIES = REPO / "docs" / "studies"
PREDICTION = "A prediction by simulation; nothing of it was measured."

Lines = Mapping[str, Sequence[tuple[float, float]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One plot: lines by name, each of points."""

    title: str
    across: str
    up: str
    lines: Lines
    logarithmic: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`smoke`: a tiny part of the study, whose figures mean nothing."""

    seed: int
    smoke: bool


def study(name: str, about: str | None, run: Callable[[Options], tuple[dict[str, Any], Sequence[Panel]]]) -> None:
    """The command of a study: writes NAME.json and NAME.png."""
    parser = argparse.ArgumentParser(prog=f"python -m bench.studies.{name}", description=about)
    parser.add_argument("--seed", type=number(0), default=1, help="of traffic and choices")
    parser.add_argument("--out", type=folder, default=STUDIES, help="where the figures and the plot go")
    parser.add_argument("--smoke", action="store_true", help="a tiny part: the figures mean nothing")
    given = parser.parse_args()
    found, panels = run(Options(seed=given.seed, smoke=given.smoke))
    about_it = {
        "what": PREDICTION,
        "made": time.strftime("%Y-%m-%d", time.gmtime()),
        "seed": given.seed,
        "smoke": given.smoke,
    }
    text = json.dumps(about_it | found, indent=1) + "\n"
    (given.out / f"{name}.json").write_text(text, encoding="utf-8")
    plot(panels, given.out / f"{name}.png")
    print(f"wrote {given.out / name}.json and .png")


def plot(panels: Sequence[Panel], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(panels), figsize=(4.5 * len(panels), 3.5), squeeze=False)
    for panel, axis in zip(panels, axes[0], strict=True):
        _draw(panel, axis)
    figure.suptitle("predicted by simulation", fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def _draw(panel: Panel, axis: Axes) -> None:
    for name, points in panel.lines.items():
        axis.plot([x for x, _ in points], [y for _, y in points], "o-", label=name, linewidth=1, markersize=3)
    axis.set_title(panel.title, fontsize="medium")
    axis.set_xlabel(panel.across)
    axis.set_ylabel(panel.up)
    if panel.logarithmic:
        axis.set_xscale("log", base=2)
    axis.set_ylim(bottom=0)
    if len(panel.lines) > 1:
        axis.legend(fontsize="small")
