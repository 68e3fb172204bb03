"""`python -m training.agentic` trains a model on its own successful roll-outs, in rounds. Run it again to resume."""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from training.agentic.bench import add_options, show
from training.agentic.casting import add_role_option, cast, parse_roles
from training.agentic.endpoint import EndpointError
from training.agentic.plot import draw
from training.agentic.rounds import Rounds
from training.arguments import named_failures, number
from training.curriculum.built_in import curriculum
from training.data.dialogues import HELD_OUT
from training.recipe import AgenticRecipe, Recipe

HERE = Path(__file__).parents[1]
FILES = ("model-*.safetensors", "model.safetensors.index.json", "*.json", "*.jinja")


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.agentic", description=__doc__)
    parser.add_argument(
        "--model", type=Path, required=True, help="a checkpoint of `python -m training`; it is only read"
    )
    parser.add_argument("--run", type=Path, default=HERE / "runs" / "agentic", help="folder of roll-outs and stages")
    parser.add_argument("--out", type=Path, required=True, help="folder of the model that comes out")
    parser.add_argument("--result", type=Path, help="a JSON file for the results; its plot goes beside it")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--rounds", type=number(0), default=AgenticRecipe.rounds)
    parser.add_argument("--train-tasks", type=number(1), default=AgenticRecipe.tasks, help="of a round")
    parser.add_argument("--samples", type=number(1), default=AgenticRecipe.samples, help="roll-outs of a task")
    parser.add_argument("--steps", type=number(1), default=AgenticRecipe.steps, help="of a round")
    threads = "padded groups of a batch that are computed at once; they change no bit"
    parser.add_argument("--threads", type=number(1), default=torch.get_num_threads(), help=threads)
    add_options(parser, tasks=120)
    add_role_option(parser)
    return parser


def copy_model(source: Path, out: Path) -> None:
    """Replaces the checkpoint in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("*.safetensors"):
        old.unlink()
    for pattern in FILES:
        for file in source.glob(pattern):
            shutil.copyfile(file, out / file.name)


def publish(found: dict[str, Any], out: Path) -> None:
    """Writes the results and their plot."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    draw(found, out.with_suffix(".png"))


def main() -> None:
    parser = options()
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    console = Console()
    recipe = replace(
        AgenticRecipe(),
        rounds=arguments.rounds,
        tasks=arguments.train_tasks,
        samples=arguments.samples,
        steps=arguments.steps,
    )
    arguments.seed, seed = HELD_OUT + 1, arguments.seed  # the benchmark's own is never a training one
    with named_failures(parser, (EndpointError, OSError, ValueError)):
        maker = cast(parse_roles(arguments.role))
        source = curriculum().stages[-1].source
        rounds = Rounds(arguments.run, arguments.model, source, seed, recipe, maker, arguments.threads)
        found = rounds.run(arguments, arguments.parallel, console)
    show(found["results"], console)
    copy_model(found.pop("model"), arguments.out)
    if arguments.result:
        publish(found, arguments.result)
    console.print(f"exported to {arguments.out}")


if __name__ == "__main__":
    main()
