"""`python -m training.mtp` trains the MTP module on an exported model and adds it there. Run it again to resume."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from training.arguments import named_failures, number
from training.curriculum.built_in import MTP
from training.data.corpus import Source
from training.mtp.stage import Mtp
from training.recipe import MtpRecipe, Recipe

HERE = Path(__file__).parents[1]
BUILT_IN = HERE.parent / "models" / "caracal-tiny"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.mtp", description=__doc__)
    parser.add_argument("--model", type=Path, default=BUILT_IN, help="the trunk, to which drafts are added")
    parser.add_argument("--run", type=Path, default=HERE / "runs" / "mtp", help="folder of checkpoint and log")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument(
        "--steps", type=number(1), help="fewer than the recipe's, to try the program out on a copy of a model"
    )
    parser.add_argument("--data", choices=("corpus", "dialogues"), default="corpus", help="what the trunk has learned")
    parser.add_argument("--threads", type=number(1), default=torch.get_num_threads())
    arguments = parser.parse_args()
    if arguments.steps is not None and arguments.model.resolve() == BUILT_IN:
        parser.error("--steps makes drafts that are worth little: name a copy of the model with --model")
    torch.set_num_threads(arguments.threads)
    console = Console()
    recipe, source = (MTP, Source()) if arguments.data == "corpus" else (MtpRecipe(), None)
    recipe = replace(recipe, steps=arguments.steps or recipe.steps)
    with named_failures(parser, (OSError, ValueError)):
        stage = Mtp(arguments.run, arguments.model, arguments.seed, recipe, source, arguments.threads)
    stage.run(console)
    stage.publish()
    console.print(f"added to {arguments.model}; measure with: python -m training.mtp.acceptance")


if __name__ == "__main__":
    main()
