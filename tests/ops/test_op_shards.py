"""An op's shards, put side by side, are the op: the bits that ranks of one worker rely on."""

from dataclasses import replace

import pytest
import torch
from caracal_kernels import linear, mla_attention, mla_output, mla_project, mla_values, swiglu, swiglu_inner
from support.op_inputs import DTYPES, EVEN, ODD, Sizes, i32, mla_weights, rand
from torch import Tensor

ROWS = [1, 2, 4, 13]


def cuts(count: int) -> list[slice]:
    """One row, an odd number of rows, the rest."""
    return [slice(0, 1), slice(1, 1 + count // 3), slice(1 + count // 3, count)]


def rows_of(w: Tensor) -> list[Tensor]:
    return [w[cut].contiguous() for cut in cuts(len(w))]


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_by_output_rows(dtype: torch.dtype, rows: int) -> None:
    x, w, residual = rand(rows, 101, dtype=dtype), rand(72, 101, dtype=dtype), rand(rows, 72, dtype=dtype)
    parts = [linear(x, w[cut].contiguous(), residual[:, cut].contiguous()) for cut in cuts(72)]
    assert torch.equal(torch.cat(parts, 1), linear(x, w, residual))
    parts = [linear(x, part, None, torch.float32) for part in rows_of(w)]
    assert torch.equal(torch.cat(parts, 1), linear(x, w, None, torch.float32))


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_swiglu_by_inner_width(dtype: torch.dtype, rows: int) -> None:
    x = rand(rows, 72, dtype=dtype)
    gate, up, down = (rand(*s, dtype=dtype, scale=0.1) for s in ((101, 72), (101, 72), (72, 101)))
    shards = zip(rows_of(gate), rows_of(up), strict=True)
    inner = torch.cat([swiglu_inner(x, torch.cat(gate_and_up)) for gate_and_up in shards], 1)
    assert torch.equal(inner, swiglu_inner(x, torch.cat([gate, up])))
    assert torch.equal(linear(inner, down, x), swiglu(x, torch.cat([gate, up]), down, x))


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("s", [ODD, EVEN])
@pytest.mark.parametrize("dtype", DTYPES)
def test_attention_by_heads(dtype: torch.dtype, s: Sizes, rows: int) -> None:
    x, positions = rand(rows, s.hidden, dtype=dtype), i32(list(range(5, 5 + rows)))
    w = mla_weights(s, dtype)
    q_b_HEQ = w.q_b_EQ.view(s.heads, -1, s.q_rank)
    past = rand(2, 16, s.width, dtype=dtype)

    def run(heads: slice) -> tuple[Tensor, Tensor, Tensor]:
        cache, q_b_EQ = past.clone(), q_b_HEQ[heads].flatten(0, 1).contiguous()
        shard = replace(w, q_b_EQ=q_b_EQ, w_uk_HCN=w.w_uk_HCN[heads].contiguous())
        q = mla_project(x, shard, positions, positions, cache)
        o = mla_attention(q, cache, i32([[0, 1]]), i32([0] * rows), positions, 0.2, s.latent)
        return o, mla_values(o, w.w_uv_HUC[heads].contiguous()), cache

    o, values, cache = run(slice(0, s.heads))
    shards = [run(cut) for cut in cuts(s.heads)[: s.heads]]
    assert all(torch.equal(shard[2], cache) for shard in shards), "every rank caches the same latents"
    assert torch.equal(torch.cat([shard[1] for shard in shards], 1), values)
    assert torch.equal(linear(values, w.o_proj_DO, x), mla_output(o, w.w_uv_HUC, w.o_proj_DO, x))


@pytest.mark.compiled
def test_a_bad_argument_is_named() -> None:
    with pytest.raises(RuntimeError, match="swiglu_inner: gate_up has 3 rows"):
        swiglu_inner(rand(2, 8), rand(3, 8))
    with pytest.raises(RuntimeError, match="mla_values: w_uv"):
        mla_values(rand(2, 3, 8), rand(2, 4, 8))
