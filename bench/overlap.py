"""What the shortcut hides: a slower network under a model whose dense path takes longer than that.

A proxy before the expert worker delays its replies. The cluster whose proxy delays by nothing is what the others are
compared with, so that the proxy's own cost is no part of the result.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from bench.contenders import load, prompts, streams_of
from bench.metrics import per_call, scrape
from bench.processes import Cluster, cluster
from bench.row import Row, goal_of, shown

DELAY_S = 0.002
STREAMS = (1, 8)
NEW_TOKENS = 32
GOAL = "≤ 5"
SECTION = f"Overlap: {DELAY_S * 1e3:.0f} ms more on every round trip"
DIRECT, PLAIN, DELAYED, EXPOSED = "no proxy", "proxy", "proxy, +2 ms", "proxy, +2 ms, without overlap"


def compare(model: Path, directory: Path, rounds: int, vocabulary: int, link: str) -> list[Row]:
    """Measures inter-token latency with and without a delay, and without overlap, in turn. Raises BadAnswer."""
    with ExitStack() as stack:
        enter = stack.enter_context
        targets = {
            DIRECT: enter(cluster(model, directory / "direct", link=link)),
            PLAIN: enter(cluster(model, directory / "plain", link=link, delay_s=0.0)),
            DELAYED: enter(cluster(model, directory / "delayed", link=link, delay_s=DELAY_S)),
            EXPOSED: enter(cluster(model, directory / "exposed", link=link, delay_s=DELAY_S, CARACAL_OVERLAP="0")),
        }
        return [row for streams in STREAMS for row in _rows(targets, prompts(streams, vocabulary), rounds)]


def _rows(targets: dict[str, Cluster], batch: list[list[int]], rounds: int) -> list[Row]:
    latencies: dict[str, list[float]] = {name: [] for name in targets}
    for target in targets.values():
        load(target, batch, NEW_TOKENS)
    before = {name: scrape(target) for name, target in targets.items()}
    for _ in range(rounds):
        for name, target in targets.items():
            latencies[name].append(load(target, batch, NEW_TOKENS).inter_token_seconds * 1e3)
    calls = {name: per_call(before[name], scrape(target)) for name, target in targets.items()}
    return rows_of(latencies, calls, len(batch))


def rows_of(latencies: dict[str, list[float]], calls: dict[str, list[tuple[float, float]]], streams: int) -> list[Row]:
    """The rows of one number of streams, from latencies in ms and (exposed, round trip) seconds of every layer."""
    medians = {name: statistics.median(each) for name, each in latencies.items()}
    row = partial(Row, section=SECTION, column=streams_of(streams))
    found = [
        row(f"inter-token latency, {name}", value, "ms", detail=f"turns: {shown(latencies[name])}")
        for name, value in medians.items()
    ]
    for name in (PLAIN, DELAYED):
        detail = "by layer: " + ", ".join(f"{1e3 * waited:.2f} of {1e3 * trip:.2f} ms" for waited, trip in calls[name])
        exposed = _mean_ms(waited for waited, _ in calls[name])
        found.append(row(f"exposed of a layer, {name}", exposed, "ms", detail=detail))
    # What of a round trip was not waited for was hidden, and nothing but the dense path hides it.
    dense = max(_mean_ms(trip - waited for waited, trip in each) for name, each in calls.items() if name != EXPOSED)
    found.append(row("dense path of a layer, at least", dense, "ms", key=f"overlap/dense/{streams}"))
    raised = 100 * (medians[DELAYED] / medians[PLAIN] - 1)
    goal = GOAL if dense >= DELAY_S * 1e3 else ""
    met = goal_of(raised, goal) if goal else None
    found.append(row("latency raised by the delay", raised, "%", goal, met, key=f"overlap/raised/{streams}"))
    return found


def _mean_ms(seconds: Iterable[float]) -> float:
    return 1e3 * statistics.mean(seconds)
