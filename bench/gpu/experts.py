"""`grouped_swiglu` at real widths, from one row per expert to thousands, in bf16 and block-scaled fp8.

Legend: G experts, R rows, A (row, expert) assignments, S sampled ones, D hidden, F inner width.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from caracal_kernels import grouped_swiglu_fp8_reference, grouped_swiglu_reference
from caracal_kernels.triton.grouped_swiglu import grouped_swiglu_triton
from caracal_kernels.triton.grouped_swiglu_fp8 import grouped_swiglu_fp8_triton
from caracal_kernels.triton.tiles import Tile
from torch import Tensor

from bench.gpu.bench import Bench, Case, Row, fastest, poisoned, require_close
from bench.gpu.expert_baselines import baselines
from bench.gpu.expert_inputs import Rows, Weights, moved_and_flops

SECTION = "experts"
BANDWIDTH_GOAL, RATE_GOAL = 0.85, 0.70
LIMIT = 0.01  # relative error of bf16 answers
FEW_BYTES = 256 << 20  # of rows: below this, two batches are used in turn


def cases(bench: Bench) -> Iterator[Case]:
    s = bench.sizes
    for kind in ("bf16", "fp8"):
        weights = Weights.random(kind, s.experts, s.hidden, s.inner, bench.device)
        for each in s.rows_per_expert:
            yield Case(f"{kind}, {each} rows per expert", partial(_measure, bench, weights, each))


def compute(weights: Weights, rows: Rows, tile: Tile | None = None) -> Tensor:
    """Returns [A, D], computed by our kernels."""
    gate_up, down, batch = list(weights.gate_up_G2FD), list(weights.down_GDF), (rows.x_RD, rows.row_A, rows.count_G)
    if weights.kind == "bf16":
        return grouped_swiglu_triton(*batch, gate_up, down, tile=tile)
    return grouped_swiglu_fp8_triton(*batch, gate_up, weights.gate_up_scale, down, weights.down_scale, tile=tile)


def check(weights: Weights, rows: Rows, y_AD: Tensor) -> float:
    """Returns the relative error of some assignments, including the first and last. Raises ValueError."""
    if not bool(torch.isfinite(y_AD).all()):
        raise ValueError("the result is not finite: elements are unwritten, or read out of bounds")
    groups, assignments = weights.sizes[0], len(y_AD)
    each = assignments // groups
    sample = sorted({0, each - 1, assignments // 2, assignments - 1})
    experts = [assignment // each for assignment in sample]
    count = torch.bincount(torch.tensor(experts), minlength=groups)
    reference = grouped_swiglu_reference if weights.kind == "bf16" else grouped_swiglu_fp8_reference
    chosen = [[w[e] for e in sorted(set(experts))] for w in weights.lists()]
    exact_SD = reference(rows.x_RD, rows.row_A[sample], count[count > 0], *chosen)
    return require_close(y_AD[sample], exact_SD, LIMIT)


def _measure(bench: Bench, weights: Weights, each: int) -> list[Row]:
    groups, hidden, _ = weights.sizes
    assignments = groups * each
    sets = [Rows.random(bench, groups, each) for _ in range(2 if assignments * hidden * 2 < FEW_BYTES else 1)]
    y_AD = poisoned(lambda: compute(weights, sets[0]))
    error = check(weights, sets[0], y_AD)
    seconds = bench.clock.seconds([partial(compute, weights, rows) for rows in sets])
    baseline, baseline_s = fastest(bench.clock, baselines(weights, sets), y_AD)
    moved, flops = moved_and_flops(weights, assignments)
    bound, floor_s = bench.ceilings.binding(moved, flops, weights.kind)
    return [
        Row(
            section=SECTION,
            case=f"grouped_swiglu {weights.kind}, {groups} experts, {each} rows each",
            seconds=seconds,
            bytes=moved,
            flops=flops,
            bound=bound,
            floor_s=floor_s,
            goal=BANDWIDTH_GOAL if bound == "bandwidth" else RATE_GOAL,
            baseline=baseline,
            baseline_s=baseline_s,
            error=error,
        )
    ]
