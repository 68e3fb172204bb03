"""A stage of the making of the model: the one loop that trains, and what makes it resume with the same bits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.console import Console
from torch import Tensor, nn

from training.determinism.run_folder import RunFolder
from training.optimizer.muon_adamw import Optimizer, Rates
from training.progress import progress_bar
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


class Stage(ABC):
    """Trains `module`, which is ready with its initial weights, in the folder `path`.

    `identity`: what decides the stage's bits. Raises ValueError when the folder's run has another one.
    """

    name: str

    def __init__(
        self,
        path: Path,
        identity: dict[str, Any],
        module: nn.Module,
        recipe: StageRecipe,
        adam: AdamRecipe | None = None,
    ) -> None:
        self.folder, self.plan, self.adam = RunFolder(path, identity), recipe, adam
        self.adopt(module)
        self.step = 0
        self.seconds = 0.0
        if (tensors := self.folder.load()) is not None:
            self.restore(tensors)
        self.folder.trim_log(self.step)

    def adopt(self, module: nn.Module) -> None:
        """Trains `module` from now on, with an optimizer that has no state yet."""
        self.module, self.optimizer = module, Optimizer(module, self.plan, self.adam)

    @abstractmethod
    def advance(self) -> StepReport:
        """Runs one step, on batch number `step` of the seed's stream."""

    @abstractmethod
    def check(self, report: StepReport) -> str:
        """Looks at the quality so far, and returns it in words."""

    def run(self, console: Console) -> None:
        """Trains to the recipe's last step, with a progress bar on a terminal and a line per check."""
        with progress_bar(console, self.name, self.step, self.plan.steps) as update:
            while self.step < self.plan.steps:
                report = self.advance()
                if self._due(self.plan.log_every):
                    self.folder.log({"kind": "step", **asdict(report)})
                    update(self.step, f"loss {report.loss:.3f}")
                if self._due(self.plan.check_every):
                    words = self.check(report)
                    console.print(f"step {self.step}: {self.seconds:.0f} s, loss {report.loss:.3f}, {words}")
                if self._due(self.plan.save_every):
                    self.save()

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.plan.steps

    def save(self) -> None:
        self.folder.save(self.tensors())

    def tensors(self) -> dict[str, Tensor]:
        """Returns all that the stage needs to go on with the same bits."""
        tensors = {f"weight.{name}": value for name, value in self.module.state_dict().items()}
        progress = torch.tensor([self.step, self.seconds], dtype=torch.float64)
        return tensors | self.optimizer.state() | {"progress": progress}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Goes on from where `tensors` returned these."""
        weights = {n.removeprefix("weight."): v for n, v in tensors.items() if n.startswith("weight.")}
        self.module.load_state_dict(weights)
        self.optimizer.load(tensors)
        step, self.seconds = tensors["progress"].tolist()
        self.step = int(step)
