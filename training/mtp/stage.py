"""The stage that gives a finished model its MTP module: trained, then written into the model's checkpoint."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from training.export.write import export_head
from training.mtp.run import MtpRun
from training.progress import progress_bar

LOG_EVERY = 10


def train_head(run: MtpRun, model: Path, console: Console) -> None:
    """Trains to the recipe's last step, with a progress bar on a terminal, and writes the module to `model`."""
    with progress_bar(console, "MTP module", run.step, run.recipe.steps) as update:
        while run.step < run.recipe.steps:
            report = run.advance()
            last = run.step == run.recipe.steps
            if run.step % LOG_EVERY == 0 or last:
                run.folder.log({"kind": "step", **asdict(report)})
            update(run.step, f"loss {report.loss:.3f}")
            if run.step % run.recipe.save_every == 0 or last:
                run.save()
                shares = " ".join(f"{share:.1%}" for share in report.accepted)
                console.print(
                    f"step {run.step}: {run.seconds:.0f} s, loss {report.loss:.3f}, accepted by position {shares}"
                )
    export_head(run.head, model)
