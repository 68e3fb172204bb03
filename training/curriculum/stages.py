"""The stages of data, in order: pre-training, mid-training, context extension, post-training.

A stage ends at its last step, or at the first check at which so many held-out answers of its own kind are exact.
Learning rates are those of the planned steps, so what an early end leaves out is left out of the schedule, too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate

from training.data.corpus import Mixture, Source

EVERYTHING = Source()  # what tokenizers are trained on, so that those of all mixtures are one


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
