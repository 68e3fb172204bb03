"""The measurements of `caracal bench`. Speeds are medians over interleaved rounds."""

from __future__ import annotations

import asyncio
import random
import re
import statistics
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import redis

from bench.load import Load, run_load
from bench.processes import BaselineProcess, Cluster, cluster, peak_rss_bytes
from services.membership.record import WorkerRecord

PROMPT_TOKENS, NEW_TOKENS = 32, 64
MODEL = "bench"


@dataclass(frozen=True)
class Row:
    """One line of the result table. `goal` is empty where there is none."""

    what: str
    value: float
    unit: str
    goal: str = ""
    met: bool | None = None
    detail: str = ""


def prompts(count: int, vocabulary: int) -> list[list[int]]:
    generator = random.Random(0)
    return [[generator.randrange(10, vocabulary) for _ in range(PROMPT_TOKENS)] for _ in range(count)]


def load(target: Cluster, batch: list[list[int]]) -> Load:
    return asyncio.run(run_load(target.url, MODEL, batch, NEW_TOKENS))


def throughput(target: Cluster, baseline: BaselineProcess, rounds: int, vocabulary: int) -> list[Row]:
    """Measures tokens per second over HTTP and by `transformers.generate`, for one stream and for 32."""
    rows = []
    for streams, repeats in ((1, 4), (32, 1)):
        batch = prompts(streams, vocabulary)
        load(target, batch)
        baseline.tokens_per_second(batch, NEW_TOKENS)
        ours, theirs = [], []
        for _ in range(rounds):
            ours += [load(target, batch).tokens_per_second for _ in range(repeats)]
            theirs.append(baseline.tokens_per_second(batch, NEW_TOKENS))
        mine, other = statistics.median(ours), statistics.median(theirs)
        name = "single stream" if streams == 1 else f"{streams} streams"
        detail = f"rounds: {_list(ours)} against {_list(theirs)}"
        rows.append(Row(f"{name}, Caracal over HTTP", mine, "tokens/s", detail=detail))
        rows.append(Row(f"{name}, transformers.generate", other, "tokens/s"))
        rows.append(Row(f"{name}, Caracal ÷ transformers", mine / other, "×", "≥ 4", mine / other >= 4))
    return rows


def distribution_tax(target: Cluster, local: BaselineProcess, rounds: int, vocabulary: int) -> list[Row]:
    """Measures inter-token latency of the cluster, at its HTTP client, and of the same engine with local links."""
    batch = prompts(8, vocabulary)
    load(target, batch)
    local.ask(batch, NEW_TOKENS)
    spread, alone = [], []
    for _ in range(2 * rounds):
        spread.append(load(target, batch).inter_token_seconds * 1e3)
        alone.append(local.ask(batch, NEW_TOKENS)["inter_token_s"] * 1e3)
    mine, other = statistics.median(spread), statistics.median(alone)
    return [
        Row("8 streams, inter-token latency of the cluster", mine, "ms", detail=f"rounds: {_list(spread)}"),
        Row("8 streams, the same engine, local links, one process", other, "ms", detail=f"rounds: {_list(alone)}"),
        Row("distribution tax", mine / other, "×", "≤ 1.25", mine / other <= 1.25),
    ]


def overlap(model: Path, directory: Path, rounds: int, vocabulary: int, delay_s: float) -> list[Row]:
    """Measures inter-token latency with and without overlap, while a proxy delays every expert round trip.

    Overlap can hide at most the time of a layer's dense path: little for one stream, more for a batch.
    """
    rows = []
    with (
        cluster(model, directory / "overlap", delay_s=delay_s) as hidden,
        cluster(model, directory / "plain", delay_s=delay_s, CARACAL_OVERLAP="0") as exposed,
    ):
        for streams in (1, 32):
            rows += _with_and_without(
                {"with": hidden, "without": exposed}, prompts(streams, vocabulary), rounds, delay_s
            )
    return rows


def _with_and_without(targets: dict[str, Cluster], batch: list[list[int]], rounds: int, delay_s: float) -> list[Row]:
    latencies: dict[str, list[float]] = {name: [] for name in targets}
    for target in targets.values():
        load(target, batch)
    before = {name: layer_seconds(target) for name, target in targets.items()}
    for _ in range(rounds):
        for name, target in targets.items():
            latencies[name].append(load(target, batch).inter_token_seconds * 1e3)
    rows = []
    for name, target in targets.items():
        shares = exposed_per_call(before[name], layer_seconds(target))
        what = f"+{delay_s * 1e3:.0f} ms per round trip, {len(batch)} streams, {name} overlap".replace(
            "1 streams", "1 stream"
        )
        values = latencies[name]
        rows.append(
            Row(f"{what}: inter-token latency", statistics.median(values), "ms", detail=f"rounds: {_list(values)}")
        )
        detail = "per layer: " + ", ".join(f"{1e3 * waited:.2f} of {1e3 * trip:.2f} ms" for waited, trip in shares)
        mean = 1e3 * statistics.mean(waited for waited, _ in shares)
        rows.append(Row(f"{what}: exposed per layer and step", mean, "ms", detail=detail))
    return rows


def wire(target: Cluster) -> list[Row]:
    """Compares the share of bytes that are received at all with the share of FFN choices, both from counters."""
    values = scrape(metrics_address(target))
    received = values['caracal_dispatch_bytes_total{direction="received"}']
    share = received / values["caracal_dispatch_bytes_if_all_ffn_total"]
    ffn = sum(v for name, v in values.items() if name.startswith("caracal_moe_choices_total") and 'kind="ffn"' in name)
    zero = sum(
        v for name, v in values.items() if name.startswith("caracal_moe_choices_total") and 'kind="zero"' in name
    )
    detail = f"FFN choices {ffn:.0f} of {ffn + zero:.0f}; {received:.0f} bytes received"
    return [
        Row(
            "wire: bytes ÷ bytes of all choices",
            share,
            "",
            f"= FFN share {ffn / (ffn + zero):.6f}",
            share == ffn / (ffn + zero),
            detail,
        )
    ]


def memory(target: Cluster, needed: dict[str, int]) -> list[Row]:
    """Measures each process's peak resident memory, and shows the size of its weights and pages."""
    bare = bare_torch_bytes() / 2**20
    rows = []
    for role, pid in target.pids.items():
        peak, need = peak_rss_bytes(pid) / 2**20, needed[role] / 2**20
        floor = f"weights and pages {need:.0f} MiB" + (
            f", a process that only imports torch {bare:.0f} MiB" if need else ""
        )
        rows.append(Row(f"memory: {role.replace('_', ' ')}, peak", peak, "MiB", f"({floor})" if need else "(no torch)"))
    return rows


def bare_torch_bytes() -> int:
    """Returns the peak resident memory of a process that only imports torch."""
    code = "import torch; print(next(l.split()[1] for l in open('/proc/self/status') if l.startswith('VmHWM')))"
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout) * 1024


def metrics_address(target: Cluster) -> str:
    store = redis.Redis.from_url(target.redis_url)
    text = store.get("caracal:worker:attention:attention-0")
    assert isinstance(text, bytes), "the attention worker's lease is gone"
    return WorkerRecord.from_json(text).metrics_address


def scrape(address: str) -> dict[str, float]:
    """Returns every sample of a /metrics page by its full name."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as page:
        lines = page.read().decode().splitlines()
    samples = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
    return {name: float(value) for name, value in samples}


def layer_seconds(target: Cluster) -> dict[str, float]:
    wanted = ("caracal_moe_exposed", "caracal_moe_round_trip", "caracal_engine_steps")
    return {name: value for name, value in scrape(metrics_address(target)).items() if name.startswith(wanted)}


def exposed_per_call(before: dict[str, float], after: dict[str, float]) -> list[tuple[float, float]]:
    """Returns (exposed, round trip) seconds per step between two scrapes, for each layer."""
    steps = after["caracal_engine_steps_total"] - before["caracal_engine_steps_total"]
    layers = sum(1 for name in after if re.match(r"caracal_moe_exposed_seconds_total\{", name))

    def per_step(what: str, layer: int) -> float:
        name = f'caracal_moe_{what}_seconds_total{{layer="{layer}"}}'
        return (after[name] - before[name]) / steps

    return [(per_step("exposed", layer), per_step("round_trip", layer)) for layer in range(layers)]


def _list(values: list[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)
