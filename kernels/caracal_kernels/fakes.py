"""Shapes without values: what torch's tracers see of the compiled ops. Imported once the ops are registered."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# torch leaves the decorator untyped
_fake: Callable[[str], Callable[..., object]] = torch.library.register_fake


def _like_first(x: Tensor, *_: object) -> Tensor:
    return torch.empty_like(x)


def _linear(x: Tensor, w: Tensor, residual: Tensor | None = None, out_dtype: torch.dtype | None = None) -> Tensor:
    return x.new_empty((x.shape[0], w.shape[0]), dtype=out_dtype or x.dtype)


def _grouped(x: Tensor, row: Tensor, *_: object) -> Tensor:
    return x.new_empty((row.shape[0], x.shape[1]))


def _combine(y: Tensor, home: Tensor, weights: Tensor, zero: Tensor, h: Tensor, residual: Tensor) -> Tensor:
    return torch.empty_like(h)


def _project(
    x: Tensor,
    norm: Tensor,
    eps: float,
    q_a: Tensor,
    q_n: Tensor,
    q_b: Tensor,
    kv_a: Tensor,
    kv_n: Tensor,
    w_uk: Tensor,
    *_: object,
) -> Tensor:
    return x.new_empty((x.shape[0], w_uk.shape[0], kv_a.shape[0]))


def _attention(
    q: Tensor, cache: Tensor, table: Tensor, seq: Tensor, positions: Tensor, scale: float, latent: int
) -> Tensor:
    return q.new_empty((q.shape[0], q.shape[1], latent))


def _values(o: Tensor, w_uv: Tensor) -> Tensor:
    return o.new_empty((o.shape[0], o.shape[1] * w_uv.shape[1]))


def _inner(x: Tensor, gate_up: Tensor) -> Tensor:
    return x.new_empty((x.shape[0], gate_up.shape[0] // 2))


def _output(o: Tensor, w_uv: Tensor, o_proj: Tensor, residual: Tensor) -> Tensor:
    return torch.empty_like(residual)


def _route(h: Tensor, classifier: Tensor, bias: Tensor, top_k: int, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    shape = (h.shape[0], top_k)
    fp32 = torch.float32
    return h.new_empty(shape, dtype=torch.int32), h.new_empty(shape, dtype=fp32), h.new_empty(shape[:1], dtype=fp32)


def _plan(
    ids: Tensor, positions: Tensor, layer: int, num_ffn: int, offset: Tensor, worker: Tensor, workers: int
) -> tuple[Tensor, ...]:
    context = torch.library.get_ctx()
    rows, pairs = context.new_dynamic_size(), context.new_dynamic_size()
    sizes = ((rows,), (workers,), (pairs,), (pairs,), (workers,))
    return (*(ids.new_empty(size) for size in sizes), torch.empty_like(ids))


def _sample(logits: Tensor, *_: object) -> Tensor:
    return logits.new_empty((logits.shape[0],), dtype=torch.int64)


for _name, _body in {
    "linear": _linear,
    "rms_norm": _like_first,
    "swiglu": _like_first,
    "swiglu_inner": _inner,
    "grouped_swiglu": _grouped,
    "combine": _combine,
    "mla_project": _project,
    "mla_attention": _attention,
    "mla_values": _values,
    "mla_output": _output,
    "route": _route,
    "plan_rows": _plan,
    "sample": _sample,
}.items():
    _fake(f"caracal::{_name}")(_body)
