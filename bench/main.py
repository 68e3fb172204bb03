"""`caracal bench` measures everything in one run on one machine; writes JSON and a Markdown table."""

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
from caracal_kernels import cpu_backend
from rich.console import Console

from bench import measures
from bench.measures import Row
from bench.processes import REPO, BaselineProcess, cluster
from services.checkpoint.reader import Checkpoint

CONFIGS = REPO / "bench" / "config"
MODELS = REPO / "bench" / "tmp"
MEASURED, SMOKE = "bench-90m", "bench-tiny"
RESULTS = REPO / "bench" / "results"
DELAY_S = 0.002
console = Console(stderr=True)


def prepare(name: str, dtype: str = "bfloat16") -> Checkpoint:
    """Returns the checkpoint of a config: random weights, seed 0; made once."""
    model = MODELS / (name if dtype == "bfloat16" else f"{name}-{dtype}")
    if not (model / "config.json").exists():
        console.print("writing the benchmark's checkpoint")
        maker = REPO / "tests" / "support" / "tiny_checkpoint.py"
        script = [sys.executable, str(maker), str(model), "--config", str(CONFIGS / f"{name}.json"), "--dtype", dtype]
        path = os.pathsep.join(str(REPO / p) for p in ("", "kernels", "proto", "tests"))
        subprocess.run(script, check=True, env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.DEVNULL)
    return Checkpoint.open(model)


def needed_bytes(checkpoint: Checkpoint, pages: int, page_size: int) -> dict[str, int]:
    """Returns the size of each worker's weights and pages in bf16 (the classifier of the gate in fp32)."""
    c = checkpoint.config
    expert = 3 * c.hidden_size * c.expert_ffn_hidden_size * 2
    experts = c.num_layers * c.n_routed_experts * expert
    files = sum(file.stat().st_size for file in checkpoint.path.glob("*.safetensors"))
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
        "kernels": cpu_backend(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def run(rounds: int, out: Path | None, name: str = MEASURED) -> list[Row]:
    """Runs all measurements; writes `cpu.json` and `cpu.md` into `out`, if given."""
    checkpoint = prepare(name)
    model, vocabulary = checkpoint.path, checkpoint.config.vocab_size
    directory = Path(tempfile.mkdtemp(prefix="caracal-bench-"))
    console.print(f"logs in {directory}")
    rows: list[Row] = []
    with cluster(model, directory / "cluster") as target:
        baseline = BaselineProcess(
            "bench.transformers_baseline",
            [str(model), "bfloat16", str(os.cpu_count() or 1)],
            directory / "transformers.log",
        )
        console.print("throughput against transformers")
        rows += measures.throughput(target, baseline, rounds, vocabulary)
        baseline.close()
        local = BaselineProcess("bench.local_engine", [str(model)], directory / "local.log")
        console.print("distribution tax")
        rows += measures.distribution_tax(target, local, rounds, vocabulary)
        local.close()
        rows += measures.wire(target)
        rows += measures.memory(target, needed_bytes(checkpoint, 512, 64))
    console.print("overlap behind a delaying proxy")
    rows += measures.overlap(model, directory, rounds, vocabulary, DELAY_S)
    if out is not None:
        write(rows, out)
    return rows


def write(rows: list[Row], out: Path, name: str = "cpu") -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(
        json.dumps({"machine": machine(), "rows": [asdict(row) for row in rows]}, indent=2) + "\n"
    )
    (out / f"{name}.md").write_text(markdown(rows))


def markdown(rows: list[Row]) -> str:
    """Returns the table that the README shows."""
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
    parser.add_argument(
        "--smoke", action="store_true", help="every part once on a tiny model, to see that it runs: nothing is written"
    )
    given = parser.parse_args(arguments)
    if given.rounds < 3:
        parser.error("--rounds: a median needs at least 3 rounds")
    rows = run(1, None, SMOKE) if given.smoke else run(given.rounds, given.out)
    print(markdown(rows))
    for row in rows:
        if row.detail:
            print(f"{row.what}: {row.detail}")


if __name__ == "__main__":
    main(sys.argv[1:])
