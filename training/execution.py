"""How a stage is computed: by which ranks, on how many threads, watched how closely. None of it changes a bit."""

from __future__ import annotations

from dataclasses import dataclass, field

from training.determinism.watch import Watch
from training.distributed.team import ALONE, InvalidTeam, Team


@dataclass(frozen=True)
class Execution:
    team: Team = ALONE
    threads: int = 1
    watch: Watch = field(default_factory=Watch)

    def __post_init__(self) -> None:
        if self.threads > 1 and self.team.ranks > 1 and self.team.device.type == "cuda":
            raise InvalidTeam(f"{self.threads} threads: NCCL tells messages apart by their order, so a rank has one")

    @property
    def plain(self) -> bool:
        """Whether a batch may as well be computed as one."""
        return self.team.ranks == self.threads == 1 and not self.watch.interval and self.watch.faults is None
