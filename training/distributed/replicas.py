"""Compares what several ranks have of the same tensor: a corrupted one stays different, whenever it was hit."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from training.determinism.watch import CorruptionFound, fingerprint
from training.distributed.shards import is_sharded
from training.distributed.sums import gather_from
from training.distributed.team import Team


def compare_replicas(team: Team, tensors: dict[str, Tensor]) -> None:
    """Compares fingerprints between ranks that have the same tensor; all ranks call it together.

    Raises:
        CorruptionFound: they differ; it names tensors, and ranks that the majority is against.
    """
    if team.ranks == 1:
        return
    for peers, sharded in ((list(range(team.ranks)), False), (team.replicas, True)):
        names = [name for name in sorted(tensors) if is_sharded(name) is sharded]
        if len(peers) == 1 or not names:
            continue
        own = torch.stack([fingerprint(tensors[name]) for name in names])[None]
        by_rank = [found[0].tolist() for found in gather_from(peers, team.rank, own, [1] * len(peers))]
        wrong = [
            f"{name} of rank {', '.join(str(rank) for rank in minority(peers, column))}"
            for name, *column in zip(names, *by_rank, strict=True)
            if len(set(column)) > 1
        ]
        if wrong:
            raise CorruptionFound(f"ranks have other bits of the same tensor: {'; '.join(wrong)}")


def minority(peers: list[int], values: list[int]) -> list[int]:
    """Returns the ranks whose value is not the most common one; with a tie, all that have one of the tied."""
    counts = Counter(values).most_common()
    best = [value for value, count in counts if count == counts[0][1]]
    return [peer for peer, value in zip(peers, values, strict=True) if len(best) > 1 or value != best[0]]
