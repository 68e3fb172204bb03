"""A stage of the making of the model: the one loop that trains, and what makes it resume with the same bits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.console import Console
from torch import Tensor, nn

from training.determinism.run_folder import RunFolder
from training.distributed.replicas import compare_replicas
from training.distributed.shards import own_part, whole_tensors
from training.execution import Execution
from training.optimizer.muon_adamw import Optimizer, Rates
from training.progress import Show, progress_bar
from training.recipe import AdamRecipe


class StageRecipe(Rates, Protocol):
    """The part of a stage's recipe that the loop reads."""

    @property
    def steps(self) -> int: ...
    @property
    def log_every(self) -> int: ...
    @property
    def check_every(self) -> int: ...
    @property
    def save_every(self) -> int: ...


@dataclass(frozen=True)
class StepReport:
    """`rate`: the factor of the learning rates. `seconds`: of all steps so far."""

    step: int
    loss: float
    rate: float
    seconds: float


class Part(Protocol):
    """Something beside module and optimizer that has a state of its own."""

    def state(self) -> dict[str, Tensor]: ...
    def load(self, tensors: dict[str, Tensor]) -> None: ...


class Stage(ABC):
    """Trains `module`, which is ready with its initial weights, in the folder `path`.

    `identity`: what decides the stage's bits. With several ranks, each has a part of the experts, and the first writes.
    `parts`: by name; each is saved and restored with the rest. Raises ValueError when the folder's run has another
    identity.
    """

    name: str

    def __init__(
        self,
        path: Path,
        identity: dict[str, Any],
        module: nn.Module,
        recipe: StageRecipe,
        parts: Mapping[str, Part] | None = None,
        execution: Execution | None = None,
        adam: AdamRecipe | None = None,
    ) -> None:
        self.plan, self.execution, self.adam = recipe, execution or Execution(), adam
        self.folder = RunFolder(path, identity, self.execution.team.first)
        self.adopt(module, parts or {})
        self.step = 0
        self.seconds = 0.0
        if (tensors := self.folder.load()) is not None:
            self.restore(tensors)
        self.folder.trim_log(self.step)

    def adopt(self, module: nn.Module, parts: Mapping[str, Part]) -> None:
        """Trains `module` from now on, with these parts, and with an optimizer that has no state yet."""
        self.module, self.parts = module, dict(parts)
        self.optimizer = Optimizer(module, self.plan, self.adam, self.execution.threads)

    @abstractmethod
    def advance(self) -> StepReport:
        """Runs one step, on batch number `step` of the seed's stream."""

    @abstractmethod
    def check(self, report: StepReport) -> str:
        """Looks at the quality so far, and returns it in words."""

    def run(self, console: Console, show: Show | None = None) -> None:
        """Trains to the recipe's last step, with a progress bar on a terminal and a line per check.

        `show` takes each step's report, and may return a table to show above the bar.
        """
        with progress_bar(console, self.name, self.step, self.plan.steps) as update:
            while self.step < self.plan.steps:
                self.begin()
                report = self.advance()
                self.remember()
                table = show(report) if show else None
                if self._due(self.plan.log_every):
                    self.folder.log({"kind": "step", **asdict(report)})
                    update(self.step, f"loss {report.loss:.3f}", table)
                if self._due(self.plan.check_every):
                    words = self.check(report)
                    console.print(f"step {self.step}: {self.seconds:.0f} s, loss {report.loss:.3f}, {words}")
                if self._due(self.plan.save_every):
                    self.save()

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.plan.steps

    def _resting(self) -> dict[str, Tensor]:
        """Returns what an update leaves for the next step: weights and optimizer state, of this rank."""
        tensors = {f"weight.{name}": value for name, value in self.module.state_dict().items()}
        for part, kept in self.parts.items():
            tensors |= {f"part.{part}.{name}": value for name, value in kept.state().items()}
        return tensors | self.optimizer.state()

    def remember(self) -> None:
        """Lets the watch take fingerprints behind a step."""
        if self.execution.watch.interval:
            self.execution.watch.rest(self._resting())

    def begin(self) -> None:
        """Looks at what rested since the last step. Raises CorruptionFound when it has changed, or differs by rank."""
        watch = self.execution.watch
        watch.begin(self.step)
        if not watch.interval and not watch.faults:
            return
        tensors = self._resting()
        if watch.faults:
            for kind, names in (("weight", "weight."), ("optimizer state", ("adam.", "momentum."))):
                mine = {name: value for name, value in tensors.items() if name.startswith(names)}
                watch.faults.reach_one(kind, mine)
        watch.verify(tensors)
        if watch.due:
            compare_replicas(self.execution.team, tensors)

    def save(self) -> None:
        """Writes a checkpoint, after a look at what it is made of; all ranks call it together."""
        self.execution.watch.verify(self._resting())
        tensors = self.tensors()
        if self.folder.writes:
            self.folder.save(tensors)

    def tensors(self) -> dict[str, Tensor]:
        """Returns all that the stage needs to go on with the same bits, of all ranks, which call it together."""
        progress = torch.tensor([self.step, self.seconds], dtype=torch.float64)
        return whole_tensors(self._resting(), self.execution.team) | {"progress": progress}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Goes on from where `tensors` returned these, on any number of ranks."""
        tensors = {name: own_part(name, value, self.execution.team) for name, value in tensors.items()}
        weights = {n.removeprefix("weight."): v for n, v in tensors.items() if n.startswith("weight.")}
        self.module.load_state_dict(weights)
        self.optimizer.load(tensors)
        for part, kept in self.parts.items():
            kept.load({name: tensors[f"part.{part}.{name}"] for name in kept.state()})
        step, self.seconds = tensors["progress"].tolist()
        self.step = int(step)
