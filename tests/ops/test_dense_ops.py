"""linear, rms_norm, swiglu, grouped_swiglu, combine: right against fp64, and a row's bits its own."""

from __future__ import annotations

import random
import time
from random import Random
from threading import Thread

import pytest
import torch
from caracal_kernels import combine, grouped_swiglu, linear, rms_norm, swiglu
from support.op_inputs import DTYPES, close, i32, rand
from torch.nn.functional import silu

SHAPES = [(0, 64, 8), (1, 64, 8), (1, 37, 1009), (5, 512, 4), (7, 33, 3), (40, 70, 101), (13, 1, 1), (6, 31, 9)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "depth", "outputs"), SHAPES)
def test_linear_is_the_product(rows: int, depth: int, outputs: int, dtype: torch.dtype) -> None:
    x, w = rand(rows, depth, dtype=dtype), rand(outputs, depth, dtype=dtype, scale=depth**-0.5)
    residual = rand(rows, outputs, dtype=dtype)
    exact = x.double() @ w.double().T
    close(linear(x, w, None, torch.float32), exact, torch.float32)
    close(linear(x, w), exact, dtype)
    close(linear(x, w, residual), exact + residual.double(), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_rows_product_never_sees_its_neighbours(dtype: torch.dtype) -> None:
    random.seed(0)
    for depth, outputs in [(64, 40), (37, 101), (513, 12)]:
        x, w = rand(45, depth, dtype=dtype), rand(outputs, depth, dtype=dtype)
        alone = torch.cat([linear(x[i : i + 1], w, None, torch.float32) for i in range(45)])
        for _ in range(40):
            rows = torch.tensor(random.sample(range(45), random.randint(1, 45)))
            assert torch.equal(linear(x[rows].contiguous(), w, None, torch.float32), alone[rows])
        column = random.randrange(outputs)
        assert torch.equal(linear(x, w[column : column + 1].contiguous(), None, torch.float32)[:, 0], alone[:, column])


@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_do_not_change_a_bit(dtype: torch.dtype) -> None:
    x, w = rand(33, 640, dtype=dtype), rand(1030, 640, dtype=dtype)
    gate_up, down = rand(2 * 515, 640, dtype=dtype), rand(640, 515, dtype=dtype)
    before = torch.get_num_threads()
    try:
        answers = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            answers.append((linear(x, w), swiglu(x, gate_up, down, x)))
    finally:
        torch.set_num_threads(before)
    for one, two in answers[1:]:
        assert torch.equal(one, answers[0][0])
        assert torch.equal(two, answers[0][1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 16, 72, 515])
def test_rms_norm(width: int, dtype: torch.dtype) -> None:
    x, w = rand(9, width, dtype=dtype), rand(width, dtype=dtype)
    exact = x.double() * torch.rsqrt(x.double().pow(2).mean(-1, keepdim=True) + 1e-5) * w.double()
    y = rms_norm(x, w, 1e-5)
    close(y, exact, dtype)
    assert all(torch.equal(rms_norm(x[i : i + 1], w, 1e-5)[0], y[i]) for i in range(9))


def exact_swiglu(x: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    gate, up = (x.double() @ gate_up.double().T).chunk(2, -1)
    return (silu(gate) * up) @ down.double().T


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("inner", [8, 37, 101])
def test_swiglu(inner: int, dtype: torch.dtype) -> None:
    x = rand(11, 72, dtype=dtype)
    gate_up, down = rand(2 * inner, 72, dtype=dtype, scale=0.1), rand(72, inner, dtype=dtype, scale=0.1)
    close(swiglu(x, gate_up, down), exact_swiglu(x, gate_up, down), dtype)
    with_residual = swiglu(x, gate_up, down, x)
    close(with_residual, exact_swiglu(x, gate_up, down) + x.double(), dtype)
    for rows in ([3], [10, 0], list(range(11))[::-1]):
        assert torch.equal(swiglu(x[rows].contiguous(), gate_up, down, x[rows].contiguous()), with_residual[rows])


@pytest.mark.parametrize("dtype", DTYPES)
def test_grouped_swiglu_is_swiglu_of_each_assignment(dtype: torch.dtype) -> None:
    random.seed(1)
    gate_up = [rand(2 * 37, 72, dtype=dtype, scale=0.1) for _ in range(5)]
    down = [rand(72, 37, dtype=dtype, scale=0.1) for _ in range(5)]
    x = rand(17, 72, dtype=dtype)
    every = [swiglu(x, g, d) for g, d in zip(gate_up, down, strict=True)]
    for _ in range(40):
        counts = [random.choice([0, 0, 1, 2, 9]) for _ in range(5)]
        row = [random.randrange(17) for _ in range(sum(counts))]
        y = grouped_swiglu(x, i32(row), i32(counts), gate_up, down)
        expected = [every[g][row[p]] for p, g in enumerate(g for g, n in enumerate(counts) for _ in range(n))]
        assert y.shape == (len(row), 72)
        assert all(torch.equal(a, b) for a, b in zip(y, expected, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
def test_combine_adds_by_ascending_id(dtype: torch.dtype) -> None:
    y, h, residual = (rand(30, 72, dtype=dtype) for _ in range(3))
    y, reply_index = y[:21], torch.randint(-1, 21, (30, 6), dtype=torch.int32)
    weights, zero = torch.rand(30, 6), torch.rand(30)
    out = combine(y.contiguous(), reply_index, weights, zero, h, residual)
    for t in range(30):
        acc = torch.zeros(72)
        for choice in range(6):
            if reply_index[t, choice] >= 0:
                acc = acc + weights[t, choice] * y[reply_index[t, choice]].float()
        acc = (acc + zero[t] * h[t].float()).to(dtype)
        assert torch.equal(out[t], (residual[t].float() + acc.float()).to(dtype))


def test_combine_raises_for_a_missing_reply() -> None:
    h = rand(1, 8)
    for reply_index in (-2, 3):
        with pytest.raises(RuntimeError, match="combine: reply_index"):
            combine(rand(3, 8), i32([[reply_index]]), torch.ones(1, 1), torch.zeros(1), h, h)


@pytest.mark.parametrize(
    ("call", "culprit"),
    [
        (lambda: linear(rand(2, 3), rand(4, 5)), "linear: w"),
        (lambda: linear(rand(2, 3), rand(4, 3, dtype=torch.bfloat16)), "linear: w"),
        (lambda: linear(rand(3, 2).T, rand(4, 3)), "linear: x"),
        (lambda: linear(rand(2, 3).half(), rand(4, 3).half()), "linear: x"),
        (lambda: swiglu(rand(2, 3), rand(8, 3), rand(3, 5)), "swiglu: gate_up"),
        (lambda: rms_norm(rand(2, 3), rand(4), 1e-5), "rms_norm: w"),
        (lambda: grouped_swiglu(rand(2, 3), i32([2]), i32([1]), [rand(8, 3)], [rand(3, 4)]), "grouped_swiglu: row"),
        (lambda: grouped_swiglu(rand(2, 3), i32([1]), i32([2]), [rand(8, 3)], [rand(3, 4)]), "expert_count"),
    ],
)
@pytest.mark.compiled
def test_a_bad_argument_is_named(call: object, culprit: str) -> None:
    with pytest.raises(RuntimeError, match=culprit):
        call()  # type: ignore[operator]


def test_teams_of_several_callers_do_not_disturb_each_other() -> None:
    """Each calling thread has helpers of its own; how many changes between its calls, as do the sizes."""
    x_MK, weights = rand(5, 256, dtype=DTYPES[0]), [rand(n, 256, dtype=DTYPES[0]) for n in (16, 640, 1030, 4000)]
    expected = [linear(x_MK, w_NK) for w_NK in weights]
    wrong: list[int] = []

    def call(seed: int) -> None:
        rng = Random(seed)
        for _ in range(300):
            if rng.random() < 0.03:
                torch.set_num_threads(rng.randint(1, 5))
            if rng.random() < 0.02:
                time.sleep(0.001)  # the helpers go to sleep
            chosen = rng.randrange(len(weights))
            if not torch.equal(linear(x_MK, weights[chosen]), expected[chosen]):
                wrong.append(chosen)

    callers = [Thread(target=call, args=(seed,)) for seed in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong
