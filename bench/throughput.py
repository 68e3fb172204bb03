"""Tokens per second beside baselines, the distribution tax, and the CPU time of a step by process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.contenders import Contender, Speed, median, over_http, prompts, streams_of, take_turns
from bench.cpu_time import CpuTime
from bench.processes import Cluster
from bench.row import Row, goal_of, shown

HTTP, IN_PROCESS, IN_PROCESS_ALL = "Caracal over HTTP", "Caracal in one process", "Caracal in one process, all cores"
LLAMA, TRANSFORMERS = "llama.cpp", "transformers.generate"
STREAMS = (1, 8, 32)
REPEATS = {1: 4, 8: 2, 32: 1}  # turns per round: few streams are done soon
# Goals of Caracal over HTTP, by streams; a cluster is first to be as fast as llama.cpp, then faster.
GOALS: dict[str, dict[int, str]] = {
    LLAMA: {1: "≥ 1.0", 8: "≥ 1.3", 32: "≥ 1.3"},
    TRANSFORMERS: {1: "≥ 4", 32: "≥ 4"},
}
TAX_GOALS = {8: "≤ 1.15", 32: "≤ 1.10"}


def measure(
    target: Cluster,
    baselines: Mapping[str, Contender],
    rounds: int,
    vocabulary: int,
    repeats: Mapping[int, int] = REPEATS,
) -> list[Row]:
    """Measures the cluster over HTTP and all baselines at every number of streams. Raises BadAnswer, RuntimeError."""
    found: dict[int, dict[str, list[Speed]]] = {}
    costs: list[Row] = []
    for streams in STREAMS:
        batch = prompts(streams, vocabulary)
        cpu = CpuTime(target)
        take_turns({HTTP: over_http(target), **baselines}, batch, 1)
        found[streams] = take_turns({HTTP: over_http(target, cpu), **baselines}, batch, rounds * repeats[streams])
        costs += cpu_rows(cpu.ms_per_step(), streams)
    speeds = {streams: {name: median(each) for name, each in by_name.items()} for streams, by_name in found.items()}
    return speed_rows(speeds, found) + ratio_rows(speeds) + tax_rows(speeds) + costs


Speeds = Mapping[int, Mapping[str, Speed]]


def speed_rows(speeds: Speeds, rounds: Mapping[int, Mapping[str, Sequence[Speed]]]) -> list[Row]:
    """Two tables: after the first token, and with the prompts."""
    rows = []
    for part, title in (
        ("decode", "Tokens per second after the first token"),
        ("whole", "Tokens per second with prompts"),
    ):
        for streams, by_name in speeds.items():
            for name, speed in by_name.items():
                each = [getattr(one, part) for one in rounds[streams][name]]
                rows.append(
                    Row(
                        name,
                        getattr(speed, part),
                        "",
                        detail=f"turns: {shown(each)}",
                        section=title,
                        column=streams_of(streams),
                        key=f"{part}/{name}/{streams}",
                    )
                )
    return sorted(rows, key=lambda row: row.section != "Tokens per second after the first token")


def ratio_rows(speeds: Speeds) -> list[Row]:
    """Caracal over HTTP ÷ each baseline, decode by decode and whole by whole."""
    rows = []
    for baseline in (LLAMA, TRANSFORMERS):
        for part, title in (("decode", "after the first token"), ("whole", "with prompts")):
            for streams, by_name in speeds.items():
                if baseline not in by_name:
                    continue
                ratio = getattr(by_name[HTTP], part) / getattr(by_name[baseline], part)
                goal = GOALS[baseline].get(streams, "")
                rows.append(
                    Row(
                        f"÷ {baseline}, {title}",
                        ratio,
                        "×",
                        goal,
                        goal_of(ratio, goal) if goal else None,
                        section="Caracal over HTTP ÷ baselines",
                        column=streams_of(streams),
                        key=f"ratio/{part}/{baseline}/{streams}",
                    )
                )
    return rows


def tax_rows(speeds: Speeds) -> list[Row]:
    """Inter-token latency of the cluster ÷ that of the same engine with its experts in its process.

    The goal is against an engine with the workers' threads: one for each role.
    """
    rows = []
    for streams, by_name in speeds.items():
        latency = {name: 1e3 * streams / speed.decode for name, speed in by_name.items()}
        values = [("of the cluster, at its client", latency[HTTP], "ms", "", "itl/cluster")]
        for name, key in ((IN_PROCESS, "one"), (IN_PROCESS_ALL, "all")):
            goal = TAX_GOALS.get(streams, "") if name == IN_PROCESS else ""
            values.append((f"of {name}", latency[name], "ms", "", f"itl/{key}"))
            values.append((f"cluster ÷ {name}", latency[HTTP] / latency[name], "×", goal, f"tax/{key}"))
        rows += [
            Row(
                what,
                value,
                unit,
                goal,
                goal_of(value, goal) if goal else None,
                section="Distribution tax: inter-token latency",
                column=streams_of(streams),
                key=f"{key}/{streams}",
            )
            for what, value, unit, goal, key in values
        ]
    return rows


def cpu_rows(ms_per_step: Mapping[str, float], streams: int) -> list[Row]:
    """Milliseconds of CPU that a decode step costs each process."""
    return [
        Row(
            role.replace("_", " "),
            spent,
            "ms",
            section="CPU time of a decode step, by process",
            column=streams_of(streams),
            key=f"cpu/{role}/{streams}",
        )
        for role, spent in ms_per_step.items()
    ]
