"""`python -m training` trains the built-in model and its MTP module, exports and plots. Run it again to resume."""

from __future__ import annotations

import argparse
import ctypes
import shutil
import sys
from pathlib import Path

import torch
from rich.console import Console

from training.data.dialogues import HELD_OUT, dialogues
from training.experiments.plots import draw_training, draw_usage
from training.experiments.quality import score
from training.export.read import load_exported
from training.export.write import export
from training.model.config import ModelConfig
from training.mtp.stage import Mtp
from training.recipe import AdamRecipe, ControllerRecipe, GrowthRecipe, MtpRecipe, Recipe, TrunkRecipe
from training.trunk import Trunk

HERE = Path(__file__).parent
PARTS = ("controller", "mtp")


def keep_freed_memory() -> None:
    """Keeps glibc from returning large blocks to the system: the page faults of each step take a fifth of the time."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        trim_threshold, mmap_threshold = -1, -3
        libc.mallopt(mmap_threshold, 1 << 30)
        libc.mallopt(trim_threshold, (1 << 31) - 1)


def publish(trunk: Trunk, out: Path, docs: Path) -> None:
    """Writes the exported model, the run's log, and the plots; the histogram is of the exported bf16 weights."""
    export(trunk.model, trunk.tokenizer, out)
    docs.mkdir(parents=True, exist_ok=True)
    log = docs / "training-log.jsonl"
    shutil.copyfile(trunk.folder.log_path, log)
    controller = trunk.recipe.controller
    draw_training(log, controller.ffn_experts if controller else None, docs / "training.png")
    model, tokenizer = load_exported(out)
    draw_usage(score(model, tokenizer, list(dialogues(HELD_OUT, 0, 200))).usage, docs / "ffn-experts.png")


def recipe_of(arguments: argparse.Namespace) -> Recipe:
    left_out = arguments.without
    return Recipe(
        seed=arguments.seed,
        model=ModelConfig(num_layers=arguments.layers),
        adam=AdamRecipe(*arguments.adam) if arguments.adam else None,
        growth=GrowthRecipe(*arguments.grow) if arguments.grow else None,
        trunk=TrunkRecipe(steps=arguments.steps),
        controller=None if "controller" in left_out else ControllerRecipe(),
        mtp=None if "mtp" in left_out else MtpRecipe(steps=arguments.mtp_steps),
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("--run", type=Path, default=HERE / "runs" / "tiny", help="folder of checkpoints and logs")
    parser.add_argument("--out", type=Path, default=HERE.parent / "models" / "caracal-tiny")
    parser.add_argument("--docs", type=Path, default=HERE.parent / "docs", help="where the log and the plots go")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--steps", type=int, default=TrunkRecipe.steps, help="fewer only to try the program out")
    parser.add_argument("--mtp-steps", type=int, default=MtpRecipe.steps, help="of the MTP module; likewise")
    parser.add_argument("--without", action="append", default=[], choices=PARTS, help="a part to leave out; repeatable")
    parser.add_argument("--layers", type=int, default=ModelConfig.num_layers)
    grow = "begin with a part of the layers, and at STEP stack them R times"
    parser.add_argument("--grow", type=int, nargs=2, metavar=("STEP", "R"), help=grow)
    adam = "AdamW alone; η and σ² × inputs are a proxy's, and the model is S times as wide (Adam LR Full Align)"
    parser.add_argument("--adam", type=float, nargs=3, metavar=("RATE", "VARIANCE", "S"), help=adam)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    console, recipe = Console(), recipe_of(arguments)
    trunk = Trunk(arguments.run, recipe)
    trunk.run(console)
    publish(trunk, arguments.out, arguments.docs)
    if recipe.mtp:
        mtp = Mtp(arguments.run / "mtp", arguments.out, recipe.seed, recipe.mtp)
        mtp.run(console)
        mtp.publish()
    console.print(f"exported to {arguments.out}; evaluate with: python -m training.evaluate --offline")


if __name__ == "__main__":
    main()
