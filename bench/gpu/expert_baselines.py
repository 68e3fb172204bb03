"""Other ways to compute many experts that a machine may have: torch's grouped products, transformers' expert forwards.

Not tried: transformers' fp8 experts, whose kernel is fetched from the Hub when it is first used.
Legend: G experts, P pairs, D hidden, F inner width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu

from bench.gpu.bench import Rival
from bench.gpu.expert_inputs import FP8, Rows, Weights

FP8_NAME = "torch._scaled_grouped_mm, a scale per row, its two products alone"


def rivals(weights: Weights, sets: Sequence[Rows]) -> list[Rival]:
    """All that are to be tried; one that this machine lacks says so when it is called."""
    if weights.kind == "fp8":
        return [_scaled(weights, sets)]
    return [
        _rival("torch._grouped_mm", partial(_grouped_mm, weights), sets),
        _rival("torch.bmm, equal groups", partial(_batched, weights), sets),
        *(
            _rival(f"transformers {name}", partial(_transformers, weights, name), sets)
            for name in _forwards(weights, sets)
        ),
    ]


def _rival(name: str, compute: Callable[[Rows], Tensor], sets: Sequence[Rows]) -> Rival:
    return Rival(name, [partial(compute, rows) for rows in sets], partial(compute, sets[0]))


def _inner(both_P2F: Tensor) -> Tensor:
    gate_PF, up_PF = both_P2F.chunk(2, -1)
    return silu(gate_PF) * up_PF


def _grouped_mm(weights: Weights, rows: Rows) -> Tensor:
    end_G = rows.count_G.cumsum(0, dtype=torch.int32)
    x_PD = rows.x_RD[rows.row_A]
    inner_AF = _inner(torch._grouped_mm(x_PD, weights.gate_up_G2FD.transpose(1, 2), offs=end_G))
    return torch._grouped_mm(inner_AF, weights.down_GDF.transpose(1, 2), offs=end_G)


def _batched(weights: Weights, rows: Rows) -> Tensor:
    """Only possible because every expert has as many rows here."""
    groups, hidden, _ = weights.sizes
    x_GRD = rows.x_RD[rows.row_A].view(groups, -1, hidden)
    inner_GRF = _inner(torch.bmm(x_GRD, weights.gate_up_G2FD.transpose(1, 2)))
    return torch.bmm(inner_GRF, weights.down_GDF.transpose(1, 2)).view(-1, hidden)


def _forwards(weights: Weights, sets: Sequence[Rows]) -> list[str]:
    """transformers' batched form copies an expert's weights for every row: tried where the copies are small."""
    copies = len(sets[0].row_A) * weights.nbytes // weights.sizes[0]
    return ["grouped_mm", *(["batched_mm"] if copies < 8 << 30 else [])]


def _transformers(weights: Weights, name: str, rows: Rows) -> Tensor:
    """Answers stand where the row of their pair does, and are brought into the op's order."""
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
    pairs, device = len(rows.row_A), rows.x_RD.device
    expert_P1 = torch.empty(pairs, 1, dtype=torch.int64, device=device)
    order_A = rows.row_A.long()
    expert_P1[order_A, 0] = torch.repeat_interleave(rows.count_G.long(), output_size=pairs)
    one_P1 = torch.ones(pairs, 1, dtype=torch.bfloat16, device=device)
    forward = getattr(moe, f"{name}_experts_forward")
    y_RD: Tensor = forward(experts, rows.x_RD, expert_P1, one_P1)
    return y_RD[order_A]


def _scaled(weights: Weights, sets: Sequence[Rows]) -> Rival:
    """Coarser than ours and less than ours: rows quantised beforehand, nothing quantised between the products."""
    groups, hidden, inner = weights.sizes
    calls = []
    for rows in sets:
        ones = partial(torch.ones, device=rows.x_RD.device, dtype=torch.float32)
        inner_AF = torch.randn(len(rows.row_A), inner, device=rows.x_RD.device, dtype=torch.bfloat16).to(FP8)
        scales = ones(len(rows.row_A)), ones(groups, 2 * inner), ones(groups, hidden)
        end_G = rows.count_G.cumsum(0, dtype=torch.int32)
        calls.append(partial(_two_products, weights, rows.x_RD.to(FP8), inner_AF, end_G, *scales))
    return Rival(FP8_NAME, calls)


def _two_products(
    weights: Weights, x_PD: Tensor, inner_AF: Tensor, end_G: Tensor, row_A: Tensor, up_G2F: Tensor, down_GD: Tensor
) -> None:
    """`row_A`, `up_G2F` and `down_GD` are scales: of rows, and of the outputs of either matrix."""
    product = partial(torch._scaled_grouped_mm, offs=end_G, out_dtype=torch.bfloat16)
    _inner(product(x_PD, weights.gate_up_G2FD.transpose(1, 2), row_A, up_G2F))
    product(inner_AF, weights.down_GDF.transpose(1, 2), row_A, down_GD)
