"""The plot of bench.control: cost against the number of expert workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Size = Mapping[str, Any]
PANELS: dict[str, dict[str, Callable[[Size], float]]] = {
    "seconds": {
        "all workers join": lambda size: size["start"]["seconds"]["served"],
        "one more joins": lambda size: size["join"]["seconds"]["served"],
        "one dies": lambda size: size["death"]["seconds"]["served"],
    },
    "% of a core": {"router, idle": lambda size: 100 * size["idle"]["cost"]["router_cores"]},
    "/health meanwhile, ms": {
        "idle, 99th percentile": lambda size: size["idle"]["health_ms"]["p99"],
        "one more joins, maximum": lambda size: size["join"]["health_ms"]["max"],
    },
    "Redis, idle": {
        "calls per second": lambda size: size["idle"]["cost"]["redis_calls_per_s"],
        "KB per second": lambda size: size["idle"]["cost"]["redis_bytes_per_s"] / 1000,
    },
    "MB to workers for a change": {"one more joins": lambda size: size["join"]["bytes"] / 1e6},
    "router's memory, MB": {"resident": lambda size: size["router"]["rss_bytes"] / 1e6},
}


def plot(by_size: Sequence[Size], path: Path) -> None:
    """Draws one panel for each unit."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, 3, figsize=(12, 6.4))
    at = [size["experts"] for size in by_size]
    for panel, (unit, lines) in zip(panels.flat, PANELS.items(), strict=True):
        for name, value in lines.items():
            panel.plot(at, [value(size) for size in by_size], "o-", label=name)
        panel.set_xscale("log", base=2)
        panel.set_xticks(at, [str(each) for each in at])
        panel.set_ylim(bottom=0)
        panel.set_xlabel("expert workers, with half as many attention workers")
        panel.set_ylabel(unit)
        panel.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
