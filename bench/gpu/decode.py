"""`mla_attention` with one row per sequence, 64 heads over a paged cache of 512 + 64 values, contexts of 1k to 128k.

Legend: T rows, one for each sequence; H heads, C latent, L = C + rope, N keys, P pages of B slots, X pages of a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from caracal_kernels.gpu.mla_attention import SPLIT, mla_attention_triton
from torch import Tensor

from bench.gpu.bench import Bench, Case, Row, fastest, poisoned, require_close
from bench.gpu.decode_rivals import rivals

SECTION = "decode"
GOAL = 0.80
LIMIT = 0.01
ROTATED_BYTES, MOST_SETS = 256 << 20, 128  # of cache in turn: several times L2
SCALE = 192**-0.5


@dataclass(frozen=True)
class Batch:
    """Sequences of equal length over pages in random order; all batches of a case share one cache."""

    q_THL: Tensor
    cache_PBL: Tensor
    table_TX: Tensor  # int32
    seq_T: Tensor  # int32
    position_T: Tensor  # int32, each row's own: the last one

    def keys_NL(self, row: int) -> Tensor:
        """What a row attends to, as one matrix."""
        return self.cache_PBL[self.table_TX[row].long()].flatten(0, 1)[: int(self.position_T[row]) + 1]


def batches(bench: Bench, context: int, rows: int) -> list[Batch]:
    s, device = bench.sizes, bench.device
    width = s.latent + s.rope
    pages = -(-context // s.page_size)
    count = max(1, min(MOST_SETS, -(-ROTATED_BYTES // (rows * context * width * 2)))) if not bench.dry else 1
    total = count * rows * pages
    cache_PBL = torch.randn(total, s.page_size, width, device=device, dtype=torch.bfloat16)
    tables = torch.randperm(total, device=device).int().view(count, rows, pages)
    position_T = torch.full((rows,), context - 1, dtype=torch.int32, device=device)
    seq_T = torch.arange(rows, dtype=torch.int32, device=device)
    return [
        Batch(
            torch.randn(rows, s.heads, width, device=device, dtype=torch.bfloat16), cache_PBL, table, seq_T, position_T
        )
        for table in tables
    ]


def attend(latent: int, batch: Batch, split: int = SPLIT) -> Tensor:
    """[T, H, C] by our kernel."""
    b = batch
    return mla_attention_triton(b.q_THL, b.cache_PBL, b.table_TX, b.seq_T, b.position_T, SCALE, latent, split=split)


def exact_row(latent: int, batch: Batch, row: int) -> Tensor:
    """fp64 [H, C]."""
    keys_NL = batch.keys_NL(row).double()
    weights_HN = torch.softmax(batch.q_THL[row].double() @ keys_NL.T * SCALE, -1)
    return weights_HN @ keys_NL[:, :latent]


def moved_and_flops(bench: Bench, context: int, rows: int) -> tuple[int, int]:
    """Every cached value and query read once, every answer written once; partial sums of splits need not be."""
    s = bench.sizes
    width = s.latent + s.rope
    moved = rows * 2 * (context * width + s.heads * (width + s.latent))
    return moved, rows * 2 * s.heads * context * (width + s.latent)


def cases(bench: Bench) -> Iterator[Case]:
    for context, rows in bench.sizes.decode:
        yield Case(f"{rows} rows, {context} keys", partial(_measure, bench, context, rows))


def _measure(bench: Bench, context: int, rows: int) -> list[Row]:
    latent = bench.sizes.latent
    sets = batches(bench, context, rows)
    o_THC = poisoned(partial(attend, latent, sets[0]))
    if not bool(torch.isfinite(o_THC).all()):
        raise ValueError("answers that are not finite: unwritten, or read from where nothing is")
    error = max(require_close(o_THC[row], exact_row(latent, sets[0], row), LIMIT) for row in {0, rows - 1})
    seconds = bench.clock.seconds([partial(attend, latent, batch) for batch in sets])
    rival, rival_s = fastest(bench.clock, rivals(sets, latent, SCALE), o_THC)
    moved, flops = moved_and_flops(bench, context, rows)
    bound, floor_s = bench.ceilings.binding(moved, flops, "bf16")
    return [
        Row(
            section=SECTION,
            case=f"mla_attention, {rows} rows, {context} keys each",
            seconds=seconds,
            bytes=moved,
            flops=flops,
            bound=bound,
            floor_s=floor_s,
            goal=GOAL,
            rival=rival,
            rival_s=rival_s,
            error=error,
        )
    ]
