"""A run of steps of one attention worker with the same sequences: one event.

Each step takes a little longer than the one before it, by the keys that its decodes have gained.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from services.attention_worker.engine.step_plan import Chunk
from services.simulator.step_time import StepWork


@dataclass(slots=True)
class Run:
    """`chunks` of the first step, those of `decodes` and of `prompts`. Times are virtual seconds."""

    chunks: list[Chunk]
    decodes: list[Chunk]
    prompts: list[Chunk]
    work: StepWork
    began: float
    first_s: float
    served_s: float = 0.0  # for which a step keeps expert workers busy
    growth_s: float = 0.0
    steps: int = 1
    ends_at: float = field(init=False)
    left_s: float = 0.0  # of a step that waits for experts

    def __post_init__(self) -> None:
        self.ends_at = self.began + self.first_s

    def repeat(self, steps: int, last_s: float) -> None:
        """The step is followed by others, the last of which takes `last_s`."""
        self.growth_s = (last_s - self.first_s) / (steps - 1)
        self.steps = steps
        self.ends_at = self.after(steps)

    def after(self, steps: int) -> float:
        """When so many steps are done."""
        return self.began + steps * self.first_s + self.growth_s * steps * (steps - 1) / 2

    def whole_until(self, now: float) -> float:
        """When the last step ended that is done; when the first one began, if that is under way."""
        return self.after(min(max(0, int(self._done(now) + 1e-9)), self.steps - 1))

    def cut(self, now: float) -> bool:
        """Leaves out the steps that have not begun; returns whether there were any."""
        if self.steps == 1:
            return False
        steps = min(self.steps, max(1, math.ceil(self._done(now) - 1e-9)))
        changed, self.steps = steps < self.steps, steps
        if changed:
            self.ends_at = self.after(steps)
        return changed

    def split(self) -> Run:
        """Leaves all but the last step; returns that one. Only for decodes."""
        at, ends_at, left_s = self.after(self.steps - 1), self.ends_at, self.left_s
        chunks = [Chunk(chunk.sequence, chunk.start + self.steps - 1, 1) for chunk in self.chunks]
        last = Run(chunks, chunks, [], self.work, at, self.last_s, self.served_s)
        last.ends_at, last.left_s = ends_at, left_s
        self.keep(self.steps - 1)
        return last

    def end_early(self, now: float) -> None:
        """Leaves out the step that is under way as well."""
        self.keep(int(self._done(now) + 1e-9))

    def keep(self, steps: int) -> None:
        """Leaves out all but the first `steps`."""
        if steps < self.steps:
            self.steps = steps
            self.ends_at = self.after(steps)

    @property
    def mean_s(self) -> float:
        """The seconds of a step, without what the last one has waited for experts."""
        return (self.after(self.steps) - self.began) / self.steps

    @property
    def last_s(self) -> float:
        """The seconds of the last step, without what it has waited for experts."""
        return self.first_s + self.growth_s * (self.steps - 1)

    @property
    def waited_s(self) -> float:
        """What the last step has waited for experts."""
        return self.ends_at - self.after(self.steps)

    def _done(self, now: float) -> float:
        """How many steps are done, with the part of the one under way."""
        passed = now - self.began
        if self.growth_s <= 0:
            return passed / self.first_s
        half = self.growth_s / 2
        linear = self.first_s - half
        return (math.sqrt(linear * linear + 4 * half * passed) - linear) / (2 * half)
