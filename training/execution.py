"""How a stage is computed: by which ranks, on how many threads, watched how closely. None of it changes a bit."""

from __future__ import annotations

from dataclasses import dataclass, field

from training.determinism.watch import Watch
from training.distributed.team import ALONE, Team


@dataclass(frozen=True)
class Execution:
    team: Team = ALONE
    threads: int = 1
    watch: Watch = field(default_factory=Watch)

    @property
    def plain(self) -> bool:
        """Whether a batch may as well be computed as one."""
        return self.team.ranks == self.threads == 1 and not self.watch.interval and self.watch.faults is None
