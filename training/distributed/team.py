"""The ranks that train one model together, and what each of them has.

Each rank computes a share of every batch; its experts are a share of those of its expert group, whose ranks follow one
another. Ranks with the same share of different expert groups are replicas.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from training.model.moe import expert_groups

CPU = torch.device("cpu")
MINUTES = timedelta(minutes=30)  # other ranks wait for the first one's held-out check


class InvalidTeam(ValueError):
    """A number of ranks that cannot give the bits of one."""


class Disagreement(RuntimeError):
    """Ranks that began with different values."""


@dataclass(frozen=True)
class Team:
    """This rank among all. `sharing`: ranks of an expert group."""

    rank: int = 0
    ranks: int = 1
    sharing: int = 1
    device: torch.device = CPU

    @property
    def expert_peers(self) -> list[int]:
        """Ranks of this rank's expert group, itself among them."""
        first = self.rank // self.sharing * self.sharing
        return list(range(first, first + self.sharing))

    @property
    def replicas(self) -> list[int]:
        """Ranks with the same experts, itself among them."""
        return list(range(self.rank % self.sharing, self.ranks, self.sharing))

    @property
    def first(self) -> bool:
        """Whether this rank writes files and speaks."""
        return self.rank == 0

    def check(self, units: int, experts: int) -> None:
        """Raises InvalidTeam unless this many padded groups and experts can be dealt to the ranks."""
        if self.ranks & (self.ranks - 1):
            raise InvalidTeam(f"{self.ranks} ranks: sums keep their order only for 1, 2, 4, 8, ... ranks")
        if self.ranks > 1 and (units % self.ranks or units & (units - 1)):
            raise InvalidTeam(
                f"{units} padded groups of a batch cannot be dealt to {self.ranks} ranks: "
                "their number must be a power of two, and at least that of the ranks"
            )
        if self.sharing & (self.sharing - 1) or self.ranks % self.sharing:
            raise InvalidTeam(f"{self.ranks} ranks cannot form expert groups of {self.sharing}")
        if expert_groups(experts) % self.sharing:
            raise InvalidTeam(f"{experts} experts cannot be shared by {self.sharing} ranks, at most by "
                              f"{expert_groups(experts)}")  # fmt: skip

    def agree(self, what: str, content: bytes) -> None:
        """Raises Disagreement when this is not the same on all ranks."""
        if self.ranks == 1:
            return
        mine = torch.frombuffer(bytearray(hashlib.sha256(content).digest()), dtype=torch.uint8).to(self.device)
        all_of = [torch.empty_like(mine) for _ in range(self.ranks)]
        dist.all_gather(all_of, mine)
        differing = [rank for rank, digest in enumerate(all_of) if not torch.equal(digest, all_of[0])]
        if differing:
            raise Disagreement(f"{what}: ranks {differing} differ from rank 0")


ALONE = Team()


def join_team(device: str, sharing: int | None) -> Team:
    """Returns the team that torchrun's variables describe, connected; one rank where there are none."""
    ranks, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    place = torch.device(device)
    if place.type == "cuda":
        place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(place)
    if ranks > 1:
        dist.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=MINUTES)
    return Team(rank, ranks, ranks if sharing is None else sharing, place)


def leave_team(team: Team) -> None:
    """Waits for the other ranks and disconnects."""
    if team.ranks > 1:
        dist.barrier()
        dist.destroy_process_group()


def messages(sends: list[tuple[Tensor, int]], receives: list[tuple[Tensor, int]], tag: int = 0) -> list[dist.Work]:
    """Starts to send tensors to ranks and to receive others from ranks, as one group of calls, which NCCL needs."""
    calls = [dist.P2POp(dist.isend, tensor, rank, tag=tag) for tensor, rank in sends]
    calls += [dist.P2POp(dist.irecv, tensor, rank, tag=tag) for tensor, rank in receives]
    return list(dist.batch_isend_irecv(calls)) if calls else []
