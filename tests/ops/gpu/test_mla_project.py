"""mla_project, mla_values and mla_output in Triton: right against the reference and fp64, and a row's bits its own."""

from __future__ import annotations

import random
from typing import Any

import caracal_kernels.triton  # noqa: F401  before triton
import pytest
import torch
from caracal_kernels.mla_project import MlaWeights, mla_project_reference
from caracal_kernels.triton.mla_output import mla_output_triton, mla_values_triton
from caracal_kernels.triton.mla_project import mla_project_triton
from support.gpu_inputs import GROWN, batch_sizes, mixes
from support.op_inputs import DEVICE, DTYPES, EVEN, ODD, Sizes, close, i32, mla_weights, project_arguments, rand
from support.poisoned_memory import poisoned_memory
from torch import Tensor


def on_device(weights: MlaWeights) -> tuple[Any, ...]:
    return tuple(w.to(DEVICE) if isinstance(w, Tensor) else w for w in project_arguments(weights))


def project(s: Sizes, weights: MlaWeights, x: Tensor, positions: list[int], places: list[int]) -> tuple[Tensor, Tensor]:
    cache = torch.full((4, 16, s.width), float("nan"), dtype=x.dtype, device=DEVICE)
    where = i32(positions).to(DEVICE), i32(places).to(DEVICE)
    with poisoned_memory():
        q = mla_project_triton(x.to(DEVICE), *where, cache, *on_device(weights))
    return q.cpu(), cache.view(-1, s.width).cpu()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("s", [ODD, EVEN, Sizes(heads=17, rope=6)])
def test_project_agrees_with_the_reference(s: Sizes, dtype: torch.dtype) -> None:
    weights = mla_weights(s, dtype)
    x, positions, places = rand(9, s.hidden, dtype=dtype), list(range(5, 14)), list(range(48, 39, -1))
    q, cache = project(s, weights, x, positions, places)
    other = torch.zeros((4, 16, s.width), dtype=dtype)
    expected = mla_project_reference(x, i32(positions), i32(places), other, *project_arguments(weights))
    close(q, expected, dtype)
    close(cache[places], other.view(-1, s.width)[places], dtype)
    written = ~cache.isnan().any(-1)
    assert written.nonzero().flatten().tolist() == sorted(places), "exactly the named places are written"


def exact(s: Sizes, weights: MlaWeights, x: Tensor, positions: list[int]) -> tuple[Tensor, Tensor]:
    """(queries [T, H, L], keys [T, L]) in fp64, with no rounding on the way: longcat-flash's formulas."""
    norm, q_a, q_a_norm, q_b, kv_a, kv_a_norm, w_uk, table, eps, lora_eps, q_scale, kv_scale = (
        w.double() if isinstance(w, Tensor) else w for w in project_arguments(weights)
    )

    def normed(y: Tensor, w: Tensor, epsilon: Tensor | float) -> Tensor:
        return y / (y.square().mean(-1, keepdim=True) + epsilon).sqrt() * w

    def turned(y: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        complex_dims = torch.view_as_complex(y.unflatten(-1, (-1, 2)).contiguous()) * torch.complex(cos, sin)
        return torch.cat([complex_dims.real, complex_dims.imag], -1)

    h = normed(x.double(), norm, eps)
    cos, sin = table[positions].chunk(2, -1)
    q = (normed(h @ q_a.T, q_a_norm, lora_eps) @ q_b.T * q_scale).unflatten(-1, (s.heads, -1))
    c, k = (h @ kv_a.T).split([s.latent, s.rope], -1)
    absorbed = torch.einsum("thn,hcn->thc", q[..., : s.nope], w_uk)
    queries = torch.cat([absorbed, turned(q[..., s.nope :], cos[:, None], sin[:, None])], -1)
    return queries, torch.cat([normed(c, kv_a_norm, lora_eps) * kv_scale, turned(k, cos, sin)], -1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_project_agrees_with_fp64_at_random_sizes(dtype: torch.dtype) -> None:
    random.seed(31)
    for rows in (1, *(random.randint(2, 20) for _ in range(4))):
        hidden, heads, nope, latent, q_rank = (random.randint(2, most * GROWN) for most in (150, 9, 40, 70, 60))
        s = Sizes(hidden, heads, nope, 2 * random.randint(1, 20), latent, 8, q_rank)
        weights, x = mla_weights(s, dtype), rand(rows, hidden, dtype=dtype)
        positions, places = random.sample(range(256), rows), random.sample(range(64), rows)
        q, cache = project(s, weights, x, positions, places)
        for actual, fp64 in zip((q, cache[places]), exact(s, weights, x, positions), strict=True):
            error = actual.double() - fp64
            # Seven roundings to bf16 lie between x and a query, and all of them point one way in no row.
            assert error.norm() <= (7 * 2**-9 if dtype == torch.bfloat16 else 2e-6) * fp64.norm()
            scale = fp64.abs().amax(-1, keepdim=True)
            assert (error.abs() <= (0.04 if dtype == torch.bfloat16 else 1e-5) * scale).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_and_outputs_bits_are_the_rows_own(dtype: torch.dtype) -> None:
    random.seed(32)
    s = ODD
    o, residual = (rand(24, *shape, dtype=dtype).to(DEVICE) for shape in ((s.heads, s.latent), (s.hidden,)))
    w_uv = rand(s.heads, s.value, s.latent, dtype=dtype, scale=s.latent**-0.5).to(DEVICE)
    o_proj = rand(s.hidden, s.heads * s.value, dtype=dtype, scale=0.1).to(DEVICE)

    def run(rows: Tensor) -> tuple[Tensor, Tensor]:
        part, below = o[rows], residual[rows]
        with poisoned_memory():
            return mla_values_triton(part, w_uv), mla_output_triton(part, w_uv, o_proj, below)

    singly = [run(torch.tensor([i])) for i in range(24)]
    values, outputs = (torch.cat(rows) for rows in zip(*singly, strict=True))
    assert outputs.isfinite().all()
    for rows in mixes(24, [1, 2, 3, 9, 17, 66]):
        value, output = run(rows)
        assert torch.equal(value, values[rows])
        assert torch.equal(output, outputs[rows])


@pytest.mark.parametrize("dtype", DTYPES)
def test_projected_bits_are_the_rows_own(dtype: torch.dtype) -> None:
    random.seed(2)
    weights = mla_weights(ODD, dtype)
    x = rand(20, ODD.hidden, dtype=dtype)
    alone = [project(ODD, weights, x[i : i + 1], [i], [i]) for i in range(20)]
    for size in batch_sizes([1, 2, 3, 5, 9]):
        rows = random.sample(range(20), size)
        q, cache = project(ODD, weights, x[rows], rows, rows)
        assert all(torch.equal(q[j], alone[i][0][0]) for j, i in enumerate(rows))
        assert all(torch.equal(cache[i], alone[i][1][i]) for i in rows)


def test_no_rows_and_places_outside() -> None:
    weights = mla_weights(ODD, torch.float32)
    q, cache = project(ODD, weights, rand(0, ODD.hidden), [], [])
    assert q.shape == (0, ODD.heads, ODD.width)
    assert cache.isnan().all()
    q, cache = project(ODD, weights, rand(2, ODD.hidden), [3, 256], [-1, 64])
    assert cache.isnan().all(), "neither place is in the cache"
    assert not q.isnan().any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("s", [ODD, EVEN])
def test_values_and_output(s: Sizes, dtype: torch.dtype) -> None:
    o, residual = (rand(70, *shape, dtype=dtype).to(DEVICE) for shape in ((s.heads, s.latent), (s.hidden,)))
    w_uv = rand(s.heads, s.value, s.latent, dtype=dtype, scale=s.latent**-0.5).to(DEVICE)
    o_proj = rand(s.hidden, s.heads * s.value, dtype=dtype, scale=0.1).to(DEVICE)
    with poisoned_memory():
        values, out = mla_values_triton(o, w_uv), mla_output_triton(o, w_uv, o_proj, residual)
    exact = torch.einsum("thc,hvc->thv", o.double(), w_uv.double()).flatten(1)
    close(values, exact, dtype)
    close(out, residual.double() + exact @ o_proj.double().T, dtype)
    for i in (0, 1, 63, 64, 69):
        assert torch.equal(mla_output_triton(o[i : i + 1], w_uv, o_proj, residual[i : i + 1])[0], out[i])
    assert mla_output_triton(o[:0], w_uv, o_proj, residual[:0]).shape == (0, s.hidden)
