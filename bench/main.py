"""`caracal bench` measures everything in one run on one machine; writes JSON, Markdown tables, and README's figures."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from bench import documents, expert_workers, footprint, overlap, roofline, throughput
from bench.arguments import folder, number
from bench.checkpoints import MODELS, console, prepare
from bench.compiled import CannotMeasure
from bench.contenders import NEW_TOKENS, PROMPT_TOKENS, Contender, of_baseline
from bench.llama.ready import INSTALL, LlamaBaseline, why_not
from bench.metrics import cache_pages
from bench.processes import REPO, BaselineProcess, Cluster, best_link, cluster
from bench.report import markdown, write
from bench.row import Row, value_of
from services.checkpoint.reader import Checkpoint

RESULTS = REPO / "bench" / "results"
SMOKE = "bench-tiny"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured, and how often."""

    model: str = "bench-90m"
    dense_model: str = "bench-dense"
    rounds: int = 5
    repeats: dict[int, int] = field(default_factory=lambda: dict(throughput.REPEATS))
    roofline_mib: int = roofline.MIB
    link: str
    llama_python: str


def run(plan: Plan) -> tuple[list[Row], dict[str, str]]:
    """Runs all measurements; returns the rows, and what a reader has to know of the run."""
    checkpoint = prepare(plan.model)
    vocabulary = checkpoint.config.vocab_size
    directory = Path(tempfile.mkdtemp(prefix="caracal-bench-"))
    console.print(f"logs in {directory}")
    peaks = _peaks(plan)
    with cluster(checkpoint.path, directory / "cluster", link=plan.link) as target:
        about = {"link": target.link}
        rows = _beside_baselines(plan, checkpoint, target, directory, about)
        decode = {streams: value_of(rows, f"decode/{throughput.HTTP}/{streams}") for streams in throughput.STREAMS}
        console.print("four expert workers")
        rows += expert_workers.compare(target, checkpoint.path, directory / "four", plan.rounds, vocabulary, plan.link)
        pages = cache_pages(target)
        more = footprint.wire(target) + footprint.memory(target, footprint.needed_bytes(checkpoint, pages))
    dense = prepare(plan.dense_model)
    console.print("overlap behind a delaying proxy")
    rows += overlap.compare(dense.path, directory, plan.rounds, dense.config.vocab_size, plan.link)
    if peaks:
        context = PROMPT_TOKENS + NEW_TOKENS // 2
        more = (
            roofline.rows_of_machine(peaks) + roofline.rows_of_model(checkpoint.config, peaks, context, decode) + more
        )
    return rows + more, about


def _beside_baselines(
    plan: Plan, checkpoint: Checkpoint, target: Cluster, directory: Path, about: dict[str, str]
) -> list[Row]:
    model, cores = str(checkpoint.path), os.cpu_count() or 1
    with ExitStack() as stack:

        def start(name: str, module: str, *arguments: str, **environment: str) -> Contender:
            started = BaselineProcess(module, [model, *arguments], directory / f"{name}.log", **environment)
            stack.callback(started.close)
            return of_baseline(started)

        passive = {"OMP_WAIT_POLICY": "passive"}  # as the workers have it
        baselines = {
            throughput.IN_PROCESS: start("one", "bench.local_engine", "1", OMP_NUM_THREADS="1", **passive),
            throughput.IN_PROCESS_ALL: start(
                "all", "bench.local_engine", str(cores), OMP_NUM_THREADS=str(cores), **passive
            ),
            throughput.TRANSFORMERS: start("transformers", "bench.transformers_baseline", "bfloat16", str(cores)),
        }
        missing = why_not(plan.llama_python)
        if missing:
            console.print(f"without llama.cpp: {missing}; `{INSTALL}` installs it")
            about["llama.cpp"] = f"not measured: {missing}"
        else:
            twin = MODELS / f"{checkpoint.path.name}-twin.gguf"
            llama = LlamaBaseline(checkpoint.config, twin, plan.llama_python, cores, directory / "llama.log")
            stack.callback(llama.close)
            baselines[throughput.LLAMA] = of_baseline(llama)
        console.print("throughput beside baselines")
        rows = throughput.measure(target, baselines, plan.rounds, checkpoint.config.vocab_size, plan.repeats)
        if not missing:
            about["llama.cpp"] = llama.described()
    return rows


def _peaks(plan: Plan) -> dict[str, Any]:
    """What roofline.measure found, or nothing where it cannot be measured."""
    console.print("roofline of this machine")
    try:
        return roofline.measure(plan.roofline_mib)
    except CannotMeasure as error:
        console.print(f"without a roofline: {error}")
        return {}


class Parser(argparse.ArgumentParser):
    """Errors are one line, as those of all commands."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"caracal: {' '.join(message.split())} (see {self.prog} suite --help)\n")


def main(arguments: list[str]) -> None:
    parser = Parser(prog="caracal bench", description=__doc__)
    parser.add_argument("--rounds", type=number(3), default=5, help="interleaved, at least 3; medians are reported")
    parser.add_argument("--out", type=folder, default=RESULTS, help="where cpu.json and cpu.md go")
    parser.add_argument(
        "--smoke", action="store_true", help="every part once on a tiny model, to see that it runs: nothing is written"
    )
    parser.add_argument("--link", choices=("grpc", "native"), default=best_link(), help="between attention and experts")
    parser.add_argument("--llama-python", default=sys.executable, help="an interpreter that has the package llama_cpp")
    given = parser.parse_args(arguments)
    plan = Plan(rounds=given.rounds, link=given.link, llama_python=given.llama_python)
    if given.smoke:
        plan = replace(plan, model=SMOKE, dense_model=SMOKE, rounds=1, repeats=dict.fromkeys(throughput.STREAMS, 1))
        plan = replace(plan, roofline_mib=roofline.SMOKE_MIB)
    rows, about = run(plan)
    print(markdown(rows, about))
    for row in rows:
        if row.detail:
            print(f"{row.section}, {row.what}, {row.column}: {row.detail}")
    if not given.smoke:
        write(rows, given.out, "cpu", about)
        if given.out == RESULTS:
            documents.update()


if __name__ == "__main__":
    main(sys.argv[1:])
