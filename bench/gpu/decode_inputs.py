"""Batches for decode attention, enough of them that no read hits L2. Legend as in decode.py."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.gpu.bench import Bench

ROTATED_BYTES, MAX_SETS = 256 << 20, 128  # KV cache read in turn: several times L2


@dataclass(frozen=True)
class Batch:
    """Sequences of equal length over pages in random order; all batches of a case share one cache."""

    q_THL: Tensor
    cache_PIL: Tensor
    table_TX: Tensor  # int32
    seq_T: Tensor  # int32
    position_T: Tensor  # int32: the last position of each sequence

    def keys_NL(self, row: int) -> Tensor:
        """Returns the keys that a row attends to, as one matrix."""
        return self.cache_PIL[self.table_TX[row].long()].flatten(0, 1)[: int(self.position_T[row]) + 1]


def batches(bench: Bench, context: int, rows: int) -> list[Batch]:
    s, device = bench.sizes, bench.device
    width = s.latent + s.rope
    pages = -(-context // s.page_size)
    count = max(1, min(MAX_SETS, -(-ROTATED_BYTES // (rows * context * width * 2)))) if not bench.dry else 1
    total = count * rows * pages
    cache_PIL = torch.randn(total, s.page_size, width, device=device, dtype=torch.bfloat16)
    tables = torch.randperm(total, device=device).int().view(count, rows, pages)
    position_T = torch.full((rows,), context - 1, dtype=torch.int32, device=device)
    seq_T = torch.arange(rows, dtype=torch.int32, device=device)
    return [
        Batch(
            torch.randn(rows, s.heads, width, device=device, dtype=torch.bfloat16), cache_PIL, table, seq_T, position_T
        )
        for table in tables
    ]
