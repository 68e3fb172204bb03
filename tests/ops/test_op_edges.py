"""Every op at once: no rows, poisoned outputs, other thread counts; and what is not a number."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import caracal_kernels as k
import pytest
import torch
from support.op_inputs import DTYPES, EVEN, ODD, Sizes, i32, mla_weights, project_arguments, rand
from support.poisoned_memory import poisoned_memory
from torch import Tensor

Outputs = tuple[Tensor, ...]


def everything(rows: int, s: Sizes, dtype: torch.dtype) -> dict[str, Callable[[], Outputs]]:
    """One call of each op on inputs fixed by the seed; `rows` may be 0."""
    torch.manual_seed(7)
    x, x32 = rand(rows, s.hidden, dtype=dtype), rand(rows, s.hidden)
    gate_up, down = rand(2 * 37, s.hidden, dtype=dtype, scale=0.2), rand(s.hidden, 37, dtype=dtype, scale=0.2)
    position, zero = torch.arange(rows, dtype=torch.int32), torch.zeros(rows, dtype=torch.int32)
    weights = mla_weights(s, dtype)
    keys, q = rand(20, 16, s.width, dtype=dtype), rand(rows, s.heads, s.width, dtype=dtype)
    o, w_uv = rand(rows, s.heads, s.latent, dtype=dtype), rand(s.heads, s.value, s.latent, dtype=dtype, scale=0.2)
    o_proj = rand(s.hidden, s.heads * s.value, dtype=dtype, scale=0.2)
    classifier, bias = rand(9, s.hidden, scale=0.2), rand(9, scale=0.01)
    reply_index, share = torch.randint(-1, max(1, rows), (rows, 4), dtype=torch.int32), torch.rand(rows, 4)
    count = i32([rows // 3, 0, rows - rows // 3])
    ids, ones = torch.randint(0, 9, (rows, 4), dtype=torch.int32), torch.ones(rows)
    logits, wide = rand(rows, 1009), rand(1009, s.hidden, dtype=dtype)

    def project() -> Outputs:
        cache = torch.full((20, 16, s.width), 0.5, dtype=dtype)
        return k.mla_project(x, weights, position, position, cache), cache

    return {
        "linear": lambda: (k.linear(x, wide), k.linear(x, wide, None, torch.float32)),
        "rms_norm": lambda: (k.rms_norm(x, weights.norm_D, 1e-5),),
        "swiglu": lambda: (k.swiglu(x, gate_up, down), k.swiglu(x, gate_up, down, x)),
        "swiglu_inner": lambda: (k.swiglu_inner(x, gate_up),),
        "grouped_swiglu": lambda: (k.grouped_swiglu(x, position, count, [gate_up] * 3, [down] * 3),),
        "mla_project": project,
        "mla_attention": lambda: (
            k.mla_attention(q, keys, torch.arange(20, dtype=torch.int32)[None], zero, position + 200, 0.2, s.latent),
        ),
        "mla_values": lambda: (k.mla_values(o, w_uv),),
        "mla_output": lambda: (k.mla_output(o, w_uv, o_proj, x),),
        "route": lambda: k.route(x, classifier, bias, 4, 6, 6.0),
        "plan_rows": lambda: k.plan_rows(ids, position, 1, 6, i32([0, 1, 2, 3, 3, 5, 6]), i32([0, 1, 0, 0, 1, 1]), 2),
        "combine": lambda: (k.combine(x, reply_index, share, share[:, 0].contiguous(), x, x),),
        "sample": lambda: (
            k.sample(logits, zero.long(), position.long(), ones, zero, ones, ones * 0),
            k.sample(logits, zero.long(), position.long(), ones * 0.7, zero + 50, ones * 0.8, ones * 0.01),
            k.sample(x32, zero.long(), position.long(), ones * 0, zero, ones, ones * 0),
        ),
    }


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def equal(one: Outputs, two: Outputs) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("s", [ODD, EVEN])
def test_everything_is_written_and_repeats(s: Sizes, dtype: torch.dtype) -> None:
    for name, call in everything(33, s, dtype).items():
        first = call()
        assert not any(part.is_floating_point() and part.isnan().any() for part in first), name
        with poisoned_memory():
            assert equal(call(), first), name


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_rows_are_no_trouble(dtype: torch.dtype) -> None:
    for name, call in everything(0, ODD, dtype).items():
        outputs = call()
        sizes = [part.shape[0] for part in outputs if name not in ("mla_project", "plan_rows")]
        assert not any(sizes), name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "s"), [(1, EVEN), (3, ODD), (64, EVEN)])
def test_the_number_of_threads_changes_no_bit(rows: int, s: Sizes, dtype: torch.dtype) -> None:
    for name, call in everything(rows, s, dtype).items():
        with threads(1):
            alone = call()
        for count in (2, 3):
            with threads(count):
                assert equal(call(), alone), (name, count)


def test_what_is_not_a_number_harms_nobody_else() -> None:
    logits, ones, zero = rand(3, 300), torch.ones(3), torch.zeros(3, dtype=torch.int64)
    columns = (zero, zero, ones, i32([5, 5, 5]), ones * 0.9, ones * 0)
    whole = k.sample(logits, *columns)
    logits[1, ::2] = float("nan")
    torn = k.sample(logits, *columns)
    assert (torn[0], torn[2]) == (whole[0], whole[2])
    assert 0 <= int(torn[1]) < 300
    h = rand(3, 16)
    h[1] = float("nan")
    ids = k.route(h, rand(9, 16), torch.zeros(9), 4, 6, 1.0)[0]
    assert bool(((ids >= 0) & (ids < 9)).all())
    assert all(len(set(row)) == 4 for row in ids.tolist())


@pytest.mark.compiled
@pytest.mark.parametrize("dtype", DTYPES)
def test_torch_agrees_with_the_schema_of_an_op_that_writes(dtype: torch.dtype) -> None:
    s = ODD
    cache = torch.zeros(1, 16, s.width, dtype=dtype)
    x = rand(2, s.hidden, dtype=dtype)
    arguments = (x, i32([0, 1]), i32([3, 4]), cache, *project_arguments(mla_weights(s, dtype)))
    torch.library.opcheck(torch.ops.caracal.mla_project, arguments)
