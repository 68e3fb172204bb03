"""Baselines of many experts: torch's grouped products, and transformers' expert forwards.

transformers' fp8 experts are left out, because their kernel is downloaded from the Hub at its first use.
Legend: G experts, R rows, A (row, expert) assignments, N assignments of one expert, D hidden, F inner width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu

from bench.gpu.bench import Baseline
from bench.gpu.expert_inputs import FP8, Rows, Weights

FP8_NAME = "torch._scaled_grouped_mm, a scale per row, its two products alone"


def baselines(weights: Weights, sets: Sequence[Rows]) -> list[Baseline]:
    """Returns all baselines; one that this machine lacks raises when it is called."""
    if weights.kind == "fp8":
        return [_scaled(weights, sets)]
    return [
        _baseline("torch._grouped_mm", partial(_grouped_mm, weights), sets),
        _baseline("torch.bmm, equal groups", partial(_batched, weights), sets),
        *(
            _baseline(f"transformers {name}", partial(_transformers, weights, name), sets)
            for name in _forwards(weights, sets)
        ),
    ]


def _baseline(name: str, compute: Callable[[Rows], Tensor], sets: Sequence[Rows]) -> Baseline:
    return Baseline(name, [partial(compute, rows) for rows in sets], partial(compute, sets[0]))


def _inner(both_A2F: Tensor) -> Tensor:
    gate_AF, up_AF = both_A2F.chunk(2, -1)
    return silu(gate_AF) * up_AF


def _grouped_mm(weights: Weights, rows: Rows) -> Tensor:
    end_G = rows.count_G.cumsum(0, dtype=torch.int32)
    x_AD = rows.x_RD[rows.row_A]
    inner_AF = _inner(torch._grouped_mm(x_AD, weights.gate_up_G2FD.transpose(1, 2), offs=end_G))
    return torch._grouped_mm(inner_AF, weights.down_GDF.transpose(1, 2), offs=end_G)


def _batched(weights: Weights, rows: Rows) -> Tensor:
    """Only possible because every expert has equally many rows here."""
    groups, hidden, _ = weights.sizes
    x_GND = rows.x_RD[rows.row_A].view(groups, -1, hidden)
    inner_GNF = _inner(torch.bmm(x_GND, weights.gate_up_G2FD.transpose(1, 2)))
    return torch.bmm(inner_GNF, weights.down_GDF.transpose(1, 2)).view(-1, hidden)


def _forwards(weights: Weights, sets: Sequence[Rows]) -> list[str]:
    """transformers' batched form duplicates an expert's weights for every row: only tried where they fit."""
    duplicated = len(sets[0].row_A) * weights.nbytes // weights.sizes[0]
    return ["grouped_mm", *(["batched_mm"] if duplicated < 8 << 30 else [])]


def _transformers(weights: Weights, name: str, rows: Rows) -> Tensor:
    """transformers returns results in the order of the rows; they are reordered into that of the assignments."""
    from transformers.integrations import moe

    experts: Any = SimpleNamespace(
        num_experts=weights.sizes[0],
        gate_up_proj=weights.gate_up_G2FD,
        down_proj=weights.down_GDF,
        has_gate=True,
        has_bias=False,
        has_post_expert_norm=False,
        is_transposed=False,
        _is_expert_parallel=False,
        _apply_gate=_inner,
    )
    assignments, device = len(rows.row_A), rows.x_RD.device
    expert_A1 = torch.empty(assignments, 1, dtype=torch.int64, device=device)
    index_A = rows.row_A.long()
    expert_A1[index_A, 0] = torch.repeat_interleave(rows.count_G.long(), output_size=assignments)
    one_A1 = torch.ones(assignments, 1, dtype=torch.bfloat16, device=device)
    forward = getattr(moe, f"{name}_experts_forward")
    y_RD: Tensor = forward(experts, rows.x_RD, expert_A1, one_A1)
    return y_RD[index_A]


def _scaled(weights: Weights, sets: Sequence[Rows]) -> Baseline:
    """Coarser scales and less work than ours: rows are quantized beforehand, and nothing between the products."""
    groups, hidden, inner = weights.sizes
    calls = []
    for rows in sets:
        ones = partial(torch.ones, device=rows.x_RD.device, dtype=torch.float32)
        inner_AF = torch.randn(len(rows.row_A), inner, device=rows.x_RD.device, dtype=torch.bfloat16).to(FP8)
        scales = ones(len(rows.row_A)), ones(groups, 2 * inner), ones(groups, hidden)
        end_G = rows.count_G.cumsum(0, dtype=torch.int32)
        calls.append(partial(_two_products, weights, rows.x_RD.to(FP8), inner_AF, end_G, *scales))
    return Baseline(FP8_NAME, calls)


def _two_products(
    weights: Weights, x_AD: Tensor, inner_AF: Tensor, end_G: Tensor, scale_A: Tensor, up_G2F: Tensor, down_GD: Tensor
) -> None:
    """`scale_A`, `up_G2F` and `down_GD` are the scales of the rows, and of the outputs of either matrix."""
    product = partial(torch._scaled_grouped_mm, offs=end_G, out_dtype=torch.bfloat16)
    _inner(product(x_AD, weights.gate_up_G2FD.transpose(1, 2), scale_A, up_G2F))
    product(inner_AF, weights.down_GDF.transpose(1, 2), scale_A, down_GD)
