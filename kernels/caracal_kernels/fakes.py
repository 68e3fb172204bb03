"""Shapes without arithmetic, for torch's fake tensors and `torch.compile`. Imported once the compiled ops are registered.

Legend: M/T rows, N/F/E outputs, H heads, C kv_lora_rank, D hidden, P pairs, B batch rows.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.library import register_fake


@register_fake("caracal::linear")
def _linear(x: Tensor, w: Tensor, residual: Tensor | None = None, out_dtype: torch.dtype | None = None) -> Tensor:
    return x.new_empty((x.shape[0], w.shape[0]), dtype=out_dtype or x.dtype)


@register_fake("caracal::rms_norm")
def _rms_norm(x: Tensor, w: Tensor, eps: float) -> Tensor:
    return torch.empty_like(x)


@register_fake("caracal::swiglu")
def _swiglu(x: Tensor, gate_up: Tensor, down: Tensor, residual: Tensor | None = None) -> Tensor:
    return torch.empty_like(x)


@register_fake("caracal::grouped_swiglu")
def _grouped_swiglu(x: Tensor, row: Tensor, expert_count: Tensor, gate_up: list[Tensor], down: list[Tensor]) -> Tensor:
    return x.new_empty((row.shape[0], x.shape[1]))


@register_fake("caracal::combine")
def _combine(y: Tensor, home: Tensor, weights: Tensor, zero: Tensor, h: Tensor, residual: Tensor) -> Tensor:
    return torch.empty_like(h)


@register_fake("caracal::mla_project")
def _mla_project(
    x: Tensor,
    norm_w: Tensor,
    eps: float,
    q_a: Tensor,
    q_a_norm: Tensor,
    q_b: Tensor,
    kv_a: Tensor,
    kv_a_norm: Tensor,
    w_uk: Tensor,
    cos_sin: Tensor,
    positions: Tensor,
    slots: Tensor,
    cache: Tensor,
    q_scale: float,
    kv_scale: float,
    lora_eps: float,
) -> Tensor:
    return x.new_empty((x.shape[0], w_uk.shape[0], cache.shape[2]))


@register_fake("caracal::mla_attention")
def _mla_attention(
    q: Tensor, cache: Tensor, page_table: Tensor, seq: Tensor, positions: Tensor, scale: float, kv_lora_rank: int
) -> Tensor:
    return q.new_empty((q.shape[0], q.shape[1], kv_lora_rank))


@register_fake("caracal::mla_output")
def _mla_output(o: Tensor, w_uv: Tensor, o_proj: Tensor, residual: Tensor) -> Tensor:
    return torch.empty_like(residual)


@register_fake("caracal::route")
def _route(
    h: Tensor, classifier: Tensor, bias: Tensor, top_k: int, num_ffn: int, scale: float, norm_topk: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    ids = h.new_empty((h.shape[0], top_k), dtype=torch.int32)
    return ids, torch.empty_like(ids, dtype=torch.float32), h.new_empty((h.shape[0],), dtype=torch.float32)


@register_fake("caracal::plan_rows")
def _plan_rows(
    ids: Tensor,
    positions: Tensor,
    layer: int,
    num_ffn: int,
    replica_offset: Tensor,
    replica_worker: Tensor,
    num_workers: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    context = torch.library.get_ctx()
    rows, pairs = context.new_dynamic_size(), context.new_dynamic_size()

    def ints(count: int | torch.SymInt) -> Tensor:
        return ids.new_empty((count,), dtype=torch.int32)

    return ints(rows), ints(num_workers), ints(pairs), ints(pairs), ints(num_workers), torch.empty_like(ids)


@register_fake("caracal::sample")
def _sample(
    logits: Tensor,
    seeds: Tensor,
    positions: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
) -> Tensor:
    return logits.new_empty((logits.shape[0],), dtype=torch.int64)
