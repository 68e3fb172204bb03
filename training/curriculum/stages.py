"""The stages of data, in order: pre-training, mid-training, context extension, post-training.

A stage ends at its last step, or at the first check at which so many held-out answers of its own kind are exact.
Learning rates are those of the planned steps, so what an early end leaves out is left out of the schedule, too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate
from pathlib import Path

from training.data.corpus import Mixture, Source

EVERYTHING = Source()  # what tokenizers are trained on, so that those of all mixtures are one
MIXTURES = Path(__file__).parent / "mixtures.json"  # what `python -m training.curriculum.search` has chosen


@dataclass(frozen=True)
class DataStage:
    """exact: the exit criterion, a share of held-out answers; above 1 the stage takes all its steps."""

    name: str
    steps: int
    mixture: Mixture
    long_share: float
    exact: float
    rope_theta: float

    @property
    def source(self) -> Source:
        return Source(self.mixture, self.long_share)

    def left_at(self, share: float) -> bool:
        return share >= self.exact


@cache
def chosen_mixtures() -> dict[str, Mixture]:
    """Returns the mixtures that the search has chosen, by stage."""
    raw: dict[str, dict[str, float]] = json.loads(MIXTURES.read_text(encoding="utf-8"))
    return {name: Mixture.of(shares) for name, shares in raw.items()}


@dataclass(frozen=True)
class CurriculumRecipe:
    stages: tuple[DataStage, ...]

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    def at(self, step: int) -> DataStage:
        """Returns the stage of a step; behind the last one it is the last."""
        for stage, end in zip(self.stages, accumulate(stage.steps for stage in self.stages), strict=True):
            if step < end:
                return stage
        return self.stages[-1]

    def end(self, step: int) -> int:
        """Returns the first step behind the stage of this one."""
        return next((end for end in accumulate(stage.steps for stage in self.stages) if step < end), self.steps)

    def shortened(self, steps: int) -> CurriculumRecipe:
        """Returns the same stages with so many steps in all, one each at least, to try the program out."""
        counts = [max(1, stage.steps * steps // self.steps) for stage in self.stages]
        return CurriculumRecipe(
            tuple(replace(stage, steps=count) for stage, count in zip(self.stages, counts, strict=True))
        )


def curriculum() -> CurriculumRecipe:
    """Returns the stages of the built-in model. Theta rises with the length of dialogues."""
    mixtures = chosen_mixtures()
    return CurriculumRecipe(
        (
            DataStage("pre-training", 1000, mixtures["pre-training"], 0.0, 0.95, 10_000.0),
            DataStage("mid-training", 1200, mixtures["mid-training"], 0.0, 0.97, 10_000.0),
            DataStage("context extension", 300, mixtures["context extension"], 0.25, 0.98, 50_000.0),
            DataStage("post-training", 900, mixtures["post-training"], 0.1, 1.01, 50_000.0),
        )
    )
