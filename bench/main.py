"""`caracal bench`: everything in one run on one machine, side by side; writes JSON and a Markdown table."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import torch
from caracal_kernels import available
from rich.console import Console

from bench import measures
from bench.measures import Row
from bench.processes import REPO, Peer, cluster
from services.checkpoint.reader import Checkpoint

CONFIG = REPO / "bench" / "config" / "bench-90m.json"
MODEL = REPO / "bench" / "tmp" / "bench-90m"
RESULTS = REPO / "bench" / "results"
DELAY_S = 0.002
console = Console(stderr=True)


def prepare() -> Checkpoint:
    """The benchmark's checkpoint: random weights, seed 0, bf16; made once."""
    if not (MODEL / "config.json").exists():
        console.print("writing the benchmark's checkpoint")
        script = [sys.executable, str(REPO / "tests" / "tiny_checkpoint.py"), str(MODEL), "--config", str(CONFIG)]
        path = os.pathsep.join(str(REPO / p) for p in ("", "kernels", "proto", "tests"))
        subprocess.run(script, check=True, env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.DEVNULL)
    return Checkpoint.open(MODEL)


def needed_bytes(checkpoint: Checkpoint, pages: int, page_size: int) -> dict[str, int]:
    """What each worker's weights and pages take in bf16 (the router's classifier in fp32)."""
    c = checkpoint.config
    expert = 3 * c.hidden_size * c.expert_ffn_hidden_size * 2
    experts = c.num_layers * c.n_routed_experts * expert
    files = sum(file.stat().st_size for file in MODEL.glob("*.safetensors"))
    cache = 2 * c.num_layers * pages * page_size * c.latent * 2
    return {"attention_worker": files - experts + cache, "expert_worker": experts, "router": 0}


def machine() -> dict[str, str | int]:
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        "",
    )
    return {
        "cpu": cpu,
        "cores": os.cpu_count() or 0,
        "kernels": available(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def run(rounds: int = 5, out: Path = RESULTS) -> list[Row]:
    """Runs it all and writes `cpu.json` and `cpu.md` into `out`."""
    checkpoint = prepare()
    vocabulary = checkpoint.config.vocab_size
    directory = Path(tempfile.mkdtemp(prefix="caracal-bench-"))
    console.print(f"logs in {directory}")
    rows: list[Row] = []
    with cluster(MODEL, directory / "cluster") as target:
        peer = Peer(
            "bench.transformers_baseline", [str(MODEL), "bfloat16", str(os.cpu_count() or 1)], directory / "peer.log"
        )
        console.print("throughput against transformers")
        rows += measures.throughput(target, peer, rounds, vocabulary)
        peer.close()
        local = Peer("bench.local_engine", [str(MODEL)], directory / "local.log")
        console.print("distribution tax")
        rows += measures.distribution_tax(target, local, rounds, vocabulary)
        local.close()
        rows += measures.wire(target)
        rows += measures.memory(target, needed_bytes(checkpoint, 512, 64))
    console.print("overlap behind a delaying proxy")
    rows += measures.overlap(MODEL, directory, rounds, vocabulary, DELAY_S)
    write(rows, out)
    return rows


def write(rows: list[Row], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "cpu.json").write_text(
        json.dumps({"machine": machine(), "rows": [asdict(row) for row in rows]}, indent=2) + "\n"
    )
    (out / "cpu.md").write_text(markdown(rows))


def markdown(rows: list[Row]) -> str:
    """The table as the README shows it."""
    about = machine()
    lines = [
        f"{about['cpu']}, {about['cores']} cores, kernels {about['kernels']}, torch {about['torch']}, {about['time']}",
        "",
        "| what | measured | goal | |",
        "|---|---|---|---|",
    ]
    verdict = {True: "met", False: "**missed**", None: ""}
    lines += [f"| {row.what} | {row.value:.4g} {row.unit} | {row.goal} | {verdict[row.met]} |" for row in rows]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="caracal bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds, at least 3; medians are reported")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where cpu.json and cpu.md go")
    given = parser.parse_args(arguments)
    if given.rounds < 3:
        parser.error("--rounds: a median of fewer than 3 rounds says nothing")
    rows = run(given.rounds, given.out)
    console.print(markdown(rows), markup=False)
    for row in rows:
        if row.detail:
            console.print(f"{row.what}: {row.detail}", style="dim", markup=False, highlight=False)


if __name__ == "__main__":
    main(sys.argv[1:])
