"""Runs the trainings of an experiment: each in a folder of its own, resumable, with a progress bar; the result is JSON.

An experiment is a list of cases (variant x seed). A case that has ended is read from its folder, the one that was
interrupted goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from training.determinism.run_folder import RunFolder
from training.experiments.curves import read_log
from training.experiments.held_out import held_out_loss
from training.freed_memory import keep_freed_memory
from training.recipe import Recipe
from training.trunk import Trunk

ROOT = Path(__file__).parents[2]
TIMES = "seconds"  # of a step: it depends on what else the machine does, so results do not have it
Json = dict[str, Any]
Results = dict[str, dict[int, Json]]  # variant -> seed -> what the case's work returned


@dataclass(frozen=True)
class Case:
    """One training. `identity` is what decides its result; `work` takes its folder, the console and a title."""

    variant: str
    seed: int
    identity: Json
    work: Callable[[Path, Console, str], Json]


def trained(variant: str, recipe: Recipe, held_out: int | None = None) -> Case:
    """Returns the case that trains a trunk by the recipe; its result has the log's records and the held-out loss.

    `held_out`: dialogues of that loss; without it, twice those of a check.
    """

    def work(folder: Path, console: Console, title: str) -> Json:
        trunk = Trunk(folder / "run", recipe)
        trunk.name = title
        trunk.run(console)
        return outcome(trunk, held_out or 2 * recipe.trunk.check_dialogues)

    return Case(variant, recipe.seed, asdict(recipe), work)


def outcome(trunk: Trunk, count: int) -> Json:
    """Returns the records of a finished run, and its loss on `count` held-out dialogues."""
    log = trunk.folder.log_path
    steps = [{name: value for name, value in record.items() if name != TIMES} for record in read_log(log, "step")]
    return {"steps": steps, "checks": read_log(log, "check"), "held_out_loss": held_out_loss(trunk, count)}


def run_cases(cases: Iterable[Case], folder: Path, console: Console) -> Results:
    """Runs what has not ended yet, one case after another, in `folder`/VARIANT/SEED.

    Raises ValueError when a folder has the case of another recipe.
    """
    listed = list(cases)
    results: Results = {}
    for number, case in enumerate(listed, 1):
        place = RunFolder(folder / case.variant.replace(" ", "-") / str(case.seed), case.identity)
        ended = place.path / "result.json"
        if ended.exists():
            result: Json = json.loads(ended.read_text())
        else:
            title = f"{number} of {len(listed)}: {case.variant}, seed {case.seed}"
            result = json.loads(json.dumps(case.work(place.path, console, title)))
            place.write("result.json", json.dumps(result) + "\n")
        results.setdefault(case.variant, {})[case.seed] = result
    return results


def arguments(
    name: str, doc: str | None, seeds: int, steps: int, add: Callable[[argparse.ArgumentParser], None] | None = None
) -> argparse.Namespace:
    """Parses what every experiment takes and what `add` declares, and sets up torch.

    `seeds` and `steps`: the default size.
    """
    parser = argparse.ArgumentParser(prog=f"python -m training.experiments.{name}", description=doc)
    parser.add_argument("--run", type=Path, default=ROOT / "training" / "runs" / name, help="folder of checkpoints")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs" / "training", help="where result and plot go")
    parser.add_argument("--scale", type=int, default=1, help="N: a model N times as wide, N times as many steps")
    parser.add_argument("--seeds", type=int, default=seeds, help="how many; the first is 1")
    parser.add_argument("--steps", type=int, default=steps, help="at scale 1; fewer only to try the program out")
    parser.add_argument("--threads", type=int, default=1)
    if add:
        add(parser)
    given = parser.parse_args()
    for option in ("scale", "seeds", "steps", "threads"):
        if getattr(given, option) < 1:
            parser.error(f"--{option} is {getattr(given, option)}, and has to be at least 1")
    torch.set_num_threads(given.threads)
    keep_freed_memory()
    return given


def write_result(docs: Path, name: str, given: argparse.Namespace, recipe: Recipe, result: Json) -> Path:
    """Writes `docs`/NAME.json: the size, the recipe that the variants differ from, and the result. Returns its path."""
    docs.mkdir(parents=True, exist_ok=True)
    size = {"scale": given.scale, "seeds": given.seeds, "steps": given.steps * given.scale}
    command = f"python -m training.experiments.{name.replace('-', '_')}"
    text = json.dumps({"command": command, "size": size, "recipe": asdict(recipe), **result}, indent=1)
    path = docs / f"{name}.json"
    path.write_text(text + "\n", encoding="utf-8")
    return path
