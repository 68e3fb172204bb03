"""Experts by rank: cut from whole tensors, and put together again, so that a checkpoint knows nothing of ranks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.distributed.sums import gather_from
from training.distributed.team import Team
from training.model.moe import Experts


def is_sharded(name: str) -> bool:
    """Whether ranks have different parts of the parameter, or of its optimizer state: those of the experts."""
    return ".experts." in name


def own_part(name: str, whole: Tensor, team: Team) -> Tensor:
    """Returns what this rank has of a tensor."""
    if not is_sharded(name) or team.sharing == 1:
        return whole
    size = len(whole) // team.sharing
    return whole[team.rank % team.sharing * size :][:size].clone()


def keep_own_experts(model: nn.Module, team: Team) -> None:
    """Drops the other ranks' experts from a whole model."""
    for name, module in model.named_modules():
        if isinstance(module, Experts):
            for kind, value in list(module.named_parameters()):
                setattr(module, kind, nn.Parameter(own_part(f"{name}.{kind}", value.detach(), team)))


def whole_tensors(tensors: dict[str, Tensor], team: Team) -> dict[str, Tensor]:
    """Returns the tensors with every rank's experts; all ranks of an expert group call it together."""
    if team.sharing == 1:
        return tensors
    return {
        name: torch.cat(gather_from(team.expert_peers, team.rank, tensor, [len(tensor)] * team.sharing))
        if is_sharded(name)
        else tensor
        for name, tensor in sorted(tensors.items())
    }
