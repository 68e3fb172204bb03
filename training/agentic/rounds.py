"""Rejection-sampling fine-tuning: rounds of roll-outs through a cluster, and training on those that succeeded."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from training.agentic.bench import bench, settings
from training.agentic.casting import Cast
from training.agentic.endpoint import Endpoint
from training.agentic.refine import Refine
from training.agentic.sampling import counts, sample_tasks
from training.agentic.serving import serving
from training.data.corpus import Source
from training.export.read import digest, read_tensors, trunk_of
from training.recipe import AgenticRecipe


@dataclass(frozen=True)
class Rounds:
    """All rounds in the folder `path`, from the checkpoint `model`. Every part that is done there is not done again."""

    path: Path
    model: Path
    source: Source
    seed: int
    recipe: AgenticRecipe
    maker: Cast
    threads: int = 1  # they change no bit

    def run(self, measured: argparse.Namespace, parallel: int, console: Console) -> dict[str, Any]:
        """Returns the benchmark's results before and behind each round, counts of roll-outs, and the last model."""
        results: dict[str, Any] = {}
        rounds: list[dict[str, Any]] = []
        model = self.model
        for number in range(self.recipe.rounds):
            folder = self.path / f"round-{number + 1}"
            folder.mkdir(parents=True, exist_ok=True)
            self._same_weights(folder, model)
            file = folder / "rollouts.jsonl"
            results[self._name(number)] = self._serve(model, folder, file, measured, parallel, console)
            rounds.append(counts(file))
            console.print(f"round {number + 1}: {rounds[-1]}", markup=False)
            if not rounds[-1]["learned"]:
                console.print(f"round {number + 1}: no roll-out succeeded, so the model stays as it is")
                continue
            stage = Refine(folder / "stage", model, file, self.source, self.seed + number, self.recipe, self.threads)
            stage.run(console)
            stage.publish(folder / "model")
            model = folder / "model"
        last = self.path / "after"
        last.mkdir(parents=True, exist_ok=True)
        self._same_weights(last, model)
        results[self._name(self.recipe.rounds)] = self._serve(model, last, None, measured, parallel, console)
        return {"results": results, "rounds": rounds, "model": model}

    def _name(self, rounds: int) -> str:
        return "before" if not rounds else f"after round {rounds}"

    def _serve(
        self,
        model: Path,
        folder: Path,
        file: Path | None,
        measured: argparse.Namespace,
        parallel: int,
        console: Console,
    ) -> dict[str, Any]:
        """Measures a model and, with a file, samples its roll-outs: both through one cluster, started if needed."""
        kept, total = folder / "bench.json", self.recipe.tasks * self.recipe.samples
        if kept.exists() and (file is None or (file.exists() and counts(file)["rollouts"] == total)):
            found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
            if found["settings"] == settings(measured):
                return found
        with serving(model) as url:
            if file is not None:
                with Progress(console=console) as progress:
                    bar = progress.add_task(f"roll-outs of {folder.name}", total=total)
                    sample_tasks(
                        Endpoint.open(url),
                        self.maker,
                        f"train {self.seed} {folder.name}",
                        self.recipe,
                        file,
                        parallel,
                        lambda lines: progress.update(bar, completed=lines),
                    )
            result = bench(url, self.maker, measured, console) | {"weights": digest(read_tensors(model))}
        kept.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        return result

    def _same_weights(self, folder: Path, model: Path) -> None:
        """Raises ValueError when the folder's work was begun with other weights, seed or recipe."""
        file = folder / "begun-with.json"
        mine = {"weights": digest(trunk_of(read_tensors(model))), "seed": self.seed, "recipe": str(self.recipe)}
        text = json.dumps(mine, indent=1) + "\n"
        if file.exists() and file.read_text(encoding="utf-8") != text:
            raise ValueError(f"{file}: the round there began with other weights, seed or recipe; choose another --run")
        file.write_text(text, encoding="utf-8")
