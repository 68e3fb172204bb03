"""`python -m training` trains the built-in model and its MTP module, exports and plots. Run it again to resume."""

from __future__ import annotations

import argparse
import ctypes
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console

from training.config import ModelConfig, Recipe
from training.data.dialogues import dialogues
from training.experiments.plots import draw_training, draw_usage
from training.experiments.quality import score
from training.export.read import load_exported
from training.export.write import export
from training.mtp.recipe import MtpRecipe
from training.mtp.run import MtpRun
from training.mtp.stage import train_head
from training.progress import progress_bar
from training.run import HELD_OUT, Run

HERE = Path(__file__).parent
LOG_EVERY, CHECK_EVERY = 10, 200


def keep_freed_memory() -> None:
    """Keeps glibc from returning large blocks to the system: the page faults of each step take a fifth of the time."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        trim_threshold, mmap_threshold = -1, -3
        libc.mallopt(mmap_threshold, 1 << 30)
        libc.mallopt(trim_threshold, (1 << 31) - 1)


def train(run: Run, console: Console) -> None:
    """Trains to the recipe's last step, with a progress bar on a terminal, and prints a line per check."""
    with progress_bar(console, "training", run.step, run.recipe.steps) as update:
        while run.step < run.recipe.steps:
            report = run.advance()
            last = run.step == run.recipe.steps
            if run.step % LOG_EVERY == 0 or last:
                run.log({"kind": "step", **asdict(report)})
                update(run.step, f"loss {report.loss:.3f}")
            if run.step % CHECK_EVERY == 0 or last:
                check(run, report.loss, console)
            if run.step % run.recipe.save_every == 0 or last:
                run.save()


def check(run: Run, loss: float, console: Console) -> None:
    """Writes held-out exactness and expert usage to the console and the log."""
    result = run.check()
    usage = [asdict(layer) for layer in result.usage]
    shares = {kind: round(result.exact[kind] / n, 3) for kind, n in sorted(result.asked.items())}
    run.log({"kind": "check", "step": run.step, "exact": result.share, "by_category": shares, "usage": usage})
    means = " ".join(f"{layer.mean:.2f}±{layer.std:.2f}" for layer in result.usage)
    console.print(
        f"step {run.step}: {run.seconds:.0f} s, loss {loss:.3f}, held-out exact {result.share:.1%}, "
        f"FFN experts per token {means}"
    )
    console.print("  " + ", ".join(f"{kind} {share:.0%}" for kind, share in shares.items()))


def publish(run: Run, out: Path, docs: Path) -> None:
    """Writes the exported model, the run's log, and the plots; the histogram is of the exported bf16 weights."""
    export(run.model, run.tokenizer, out)
    docs.mkdir(parents=True, exist_ok=True)
    log = docs / "training-log.jsonl"
    shutil.copyfile(run.folder.log_path, log)
    draw_training(log, run.recipe.ffn_experts, docs / "training.png")
    model, tokenizer = load_exported(out)
    draw_usage(score(model, tokenizer, list(dialogues(HELD_OUT, 0, 200))).usage, docs / "ffn-experts.png")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("--run", type=Path, default=HERE / "runs" / "tiny", help="folder of checkpoint and log")
    parser.add_argument("--out", type=Path, default=HERE.parent / "models" / "caracal-tiny")
    parser.add_argument("--docs", type=Path, default=HERE.parent / "docs", help="where the log and the plots go")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="fewer only to try the program out")
    parser.add_argument("--mtp-steps", type=int, default=MtpRecipe.steps, help="of the MTP module; likewise")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    console = Console()
    run = Run.open(arguments.run, ModelConfig(), Recipe(seed=arguments.seed, steps=arguments.steps))
    train(run, console)
    publish(run, arguments.out, arguments.docs)
    recipe = MtpRecipe(seed=arguments.seed, steps=arguments.mtp_steps)
    train_head(MtpRun.open(arguments.run / "mtp", arguments.out, recipe), arguments.out, console)
    console.print(f"exported to {arguments.out}; evaluate with: python -m training.evaluate --offline")


if __name__ == "__main__":
    main()
