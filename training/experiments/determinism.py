"""Which ways of computing give the same bits, and what a step of each costs.

Every trial trains the same few steps from the same weights in processes of its own: as one batch, as torch does by
default, on one and two threads; and deterministically on several threads, ranks and expert groups. Digests are over all
losses, and over all parameters and optimizer states behind the last step. Steps of the built-in model, `--scale` times
as many layers.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from matplotlib import pyplot as plt
from rich.console import Console

from training.experiments.page import parser_of, table, write_result, write_section
from training.experiments.runner import ROOT, Case, Json, Results, run_cases
from training.experiments.trial import add_size
from training.progress import progress_bar

plt.switch_backend("Agg")
NAME = "determinism"


@dataclass(frozen=True)
class Trial:
    """One way to compute the steps; `again` tells apart repetitions of the same command."""

    name: str
    deterministic: bool
    threads: int = 1
    ranks: int = 1
    expert_ranks: int | None = None
    again: int = 1


TRIALS = [
    Trial("default, 1 thread", False),
    Trial("default, 1 thread, again", False, again=2),
    Trial("default, 2 threads", False, threads=2),
    Trial("deterministic, 1 thread", True),
    Trial("deterministic, 1 thread, again", True, again=2),
    Trial("deterministic, 2 threads", True, threads=2),
    Trial("deterministic, 2 ranks", True, ranks=2),
    Trial("deterministic, 2 ranks, each with all experts", True, ranks=2, expert_ranks=1),
    Trial("deterministic, 4 ranks", True, ranks=4),
    Trial("deterministic, 4 ranks in 2 expert groups", True, ranks=4, expert_ranks=2),
]


def case_of(trial: Trial, given: argparse.Namespace) -> Case:
    size = [
        f"--{name}={getattr(given, name)}" for name in ("seed", "scale", "steps", "layers", "dialogues", "precision")
    ]

    def work(folder: Path, console: Console, title: str) -> Json:
        out = folder / "out.json"
        launch = [sys.executable]
        if trial.ranks > 1:
            launch += ["-m", "torch.distributed.run", "--nproc-per-node", str(trial.ranks), "--standalone"]
        module = ["-m", *(["--"] if trial.ranks > 1 else []), "training.experiments.trial"]  # torchrun has a --run, too
        command = [*launch, *module, str(out), "--run", str(folder / "run"), *size]
        command += ["--threads", str(trial.threads)]
        command += [] if trial.deterministic else ["--without-determinism"]
        command += ["--expert-ranks", str(trial.expert_ranks)] if trial.expert_ranks else []
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{trial.name}: exit code {done.returncode}\n{done.stderr[-3000:]}")
        found: Json = json.loads(out.read_text())
        return found

    return Case(trial.name.replace(",", ""), given.seed, asdict(trial) | {"size": size}, work)


def rows_of(trials: list[Trial], results: Results, seed: int) -> list[Json]:
    """Returns, by trial, time of a step and whether it has the bits of the first trial of its kind."""
    found = []
    for trial in trials:
        result = results[trial.name.replace(",", "")][seed]
        first = next(one for one in TRIALS if one.deterministic == trial.deterministic)
        other = results[first.name.replace(",", "")][seed]
        found.append({
            "trial": trial.name,
            "seconds": statistics.median(result["seconds"][1:] or result["seconds"]),
            "same_losses": result["losses"] == other["losses"],
            "same_bits": result["bits"] == other["bits"],
            "bits": result["bits"][:16],
            "loss": result["loss"],
            "waited_share": result["waited_share"],
        })  # fmt: skip
    return found


def draw(rows: list[Json], out: Path) -> None:
    figure, axis = plt.subplots(figsize=(8, 4.2), layout="constrained")
    colours = ["tab:green" if row["same_bits"] else "tab:red" for row in rows]
    axis.barh([row["trial"] for row in rows][::-1], [row["seconds"] for row in rows][::-1], color=colours[::-1])
    axis.set(xlabel="seconds a step, median", title="green: the bits of the first trial of its kind; red: others")
    figure.savefig(out, dpi=110)
    plt.close(figure)


def in_words(rows: list[Json]) -> str:
    base = rows[0]["seconds"]
    return table(
        ("trial", "bits of all parameters", "step", "÷ default, 1 thread", "waited for ranks"),
        [
            (
                row["trial"],
                ("the same" if row["same_bits"] else "**others**") + f" `{row['bits']}`",
                f"{row['seconds']:.2f} s",
                f"{row['seconds'] / base:.2f}",
                f"{row['waited_share']:.1%}" if "rank" in row["trial"] else "–",
            )
            for row in rows
        ],
    )


def main() -> None:
    parser = parser_of(NAME, __doc__)
    add_size(parser)
    parser.add_argument("--most-ranks", type=int, default=4, help="leaves out trials with more")
    given, console, results = parser.parse_args(), Console(), Results()
    trials = [trial for trial in TRIALS if trial.ranks <= given.most_ranks]
    with progress_bar(console, NAME, 0, len(trials)) as update:
        for number, trial in enumerate(trials):
            update(number, trial.name, None)
            results |= run_cases([case_of(trial, given)], given.run, console)
        update(len(trials), "done", None)
    rows = rows_of(trials, results, given.seed)
    size = {name: getattr(given, name) for name in ("scale", "seed", "steps", "layers", "dialogues", "precision")}
    write_result(given.docs, NAME, {"size": size, "trials": rows})
    draw(rows, given.docs / f"{NAME}.png")
    write_section(given.docs, NAME, in_words(rows))
    console.print(in_words(rows), soft_wrap=True)


if __name__ == "__main__":
    main()
