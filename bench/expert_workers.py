"""What it costs to spread the experts of one machine over several workers."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from bench.contenders import Speed, median, over_http, prompts, streams_of, take_turns
from bench.processes import Cluster, cluster
from bench.row import Row, goal_of, shown

WORKERS = 4
STREAMS = (8, 32)
REPEATS = {8: 4, 32: 3}  # loads in a round: the workers of the second cluster share cores, so single loads vary much
GOAL = "≤ 10"
SECTION = "Expert workers on one machine: tokens per second over HTTP"


def compare(one: Cluster, model: Path, directory: Path, rounds: int, vocabulary: int, link: str) -> list[Row]:
    """Measures `one`, a cluster with one expert worker, and another with WORKERS of them in turn. Raises BadAnswer."""
    with cluster(model, directory, experts=WORKERS, link=link) as several:
        contenders = {"1 expert worker": over_http(one), f"{WORKERS} expert workers": over_http(several)}
        found = {}
        for streams in STREAMS:
            batch = prompts(streams, vocabulary)
            take_turns(contenders, batch, 1)
            found[streams] = take_turns(contenders, batch, rounds * (REPEATS[streams] if rounds > 1 else 1))
    return [row for streams, speeds in found.items() for row in rows(speeds, streams)]


def rows(speeds: dict[str, list[Speed]], streams: int) -> list[Row]:
    """The throughput of each number of workers, and what the second loses against the first, in percent."""
    medians = {name: median(each).whole for name, each in speeds.items()}
    one, several = medians.values()
    lost = 100 * (1 - several / one)
    row = partial(Row, section=SECTION, column=streams_of(streams))
    found = [
        row(name, value, "", detail=f"turns: {shown([each.whole for each in speeds[name]])}")
        for name, value in medians.items()
    ]
    return [*found, row(f"lost with {WORKERS}", lost, "%", GOAL, goal_of(lost, GOAL), key=f"workers/lost/{streams}")]
