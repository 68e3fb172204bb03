"""Sums and gathers over ranks outside the layers: gradients at the end of a step, rows of known sizes.

Legend: N numbers, P numbers of one rank's part, R ranks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from training.distributed.team import messages
from training.distributed.tree import tree_sum


def sum_over(peers: list[int], rank: int, vector_N: Tensor) -> Tensor:
    """Returns the sum of the peers' vectors in the order of `tree_sum`, on each of them.

    Every peer adds one part of the vector and sends the sum to all: a reduce-scatter, then an all-gather.
    """
    if len(peers) == 1:
        return vector_N
    own = peers.index(rank)
    part = -(-len(vector_N) // len(peers))
    padded_N = torch.nn.functional.pad(vector_N, (0, part * len(peers) - len(vector_N)))
    parts = padded_N.split(part)
    came_RP = [torch.empty_like(parts[own]) for _ in peers]
    came_RP[own] = parts[own]
    others = [place for place in range(len(peers)) if place != own]
    works = messages([(parts[i], peers[i]) for i in others], [(came_RP[i], peers[i]) for i in others])
    for work in works:
        work.wait()
    sum_P = tree_sum(came_RP)
    return torch.cat(gather_from(peers, rank, sum_P, [part] * len(peers)))[: len(vector_N)]


def gather_from(peers: list[int], rank: int, own: Tensor, rows: list[int]) -> list[Tensor]:
    """Returns each peer's tensor; they differ only in their number of rows, which is known."""
    found = [
        own if peer == rank else own.new_empty(count, *own.shape[1:]) for peer, count in zip(peers, rows, strict=True)
    ]
    others = [(tensor, peer) for tensor, peer in zip(found, peers, strict=True) if peer != rank]
    own = own.contiguous()
    for work in messages([(own, peer) for _, peer in others], others):
        work.wait()
    return found
