"""`mla_attention` with one row per sequence, 64 heads over a paged cache of 512 + 64 values, contexts of 1k to 128k.

Legend: T rows, one of each sequence; H heads, C latent, L = C + rope, N keys, P pages of I positions, X pages of a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from caracal_kernels.triton.mla_attention import SPLIT, mla_attention_triton
from torch import Tensor

from bench.gpu.bench import Bench, Case, Row, fastest, poisoned, require_close
from bench.gpu.decode_baselines import baselines
from bench.gpu.decode_inputs import Batch, batches

SECTION = "decode"
GOAL = 0.80
LIMIT = 0.01
SCALE = 192**-0.5


def attend(latent: int, batch: Batch, split: int = SPLIT) -> Tensor:
    """Returns [T, H, C], computed by our kernel."""
    b = batch
    return mla_attention_triton(b.q_THL, b.cache_PIL, b.table_TX, b.seq_T, b.position_T, SCALE, latent, split=split)


def exact_row(latent: int, batch: Batch, row: int) -> Tensor:
    """Returns the exact result of one row: fp64 [H, C]."""
    keys_NL = batch.keys_NL(row).double()
    weights_HN = torch.softmax(batch.q_THL[row].double() @ keys_NL.T * SCALE, -1)
    return weights_HN @ keys_NL[:, :latent]


def moved_and_flops(bench: Bench, context: int, rows: int) -> tuple[int, int]:
    """Returns (bytes, flops): cached values and queries read once, results written once, no partial sums of splits."""
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
        raise ValueError("the result is not finite: elements are unwritten, or read out of bounds")
    error = max(require_close(o_THC[row], exact_row(latent, sets[0], row), LIMIT) for row in {0, rows - 1})
    seconds = bench.clock.seconds([partial(attend, latent, batch) for batch in sets])
    baseline, baseline_s = fastest(bench.clock, baselines(sets, latent, SCALE), o_THC)
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
            baseline=baseline,
            baseline_s=baseline_s,
            error=error,
        )
    ]
