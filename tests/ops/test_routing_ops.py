"""route and plan_rows: ties, zero experts, and the plan against a slow oracle."""

from __future__ import annotations

import random

import pytest
import torch
from caracal_kernels import plan_rows, route
from caracal_kernels.plan_rows import plan_rows_reference
from hypothesis import given, settings
from hypothesis import strategies as st
from support.op_inputs import DTYPES, i32, rand


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", [False, True])
def test_route_agrees_with_fp64(dtype: torch.dtype, norm: bool) -> None:
    h, classifier, bias = rand(40, 72, dtype=dtype), rand(13, 72, scale=0.3), rand(13, scale=0.05)
    ids, weights, zero = route(h, classifier, bias, 5, 8, 2.5, norm)
    scores = torch.softmax(h.double() @ classifier.double().T, -1)
    expected = torch.topk(scores + bias, 5).indices.sort(-1).values
    assert torch.equal(ids.long(), expected)
    wanted = scores.gather(1, expected)
    wanted = 2.5 * (wanted / wanted.sum(-1, keepdim=True) if norm else wanted)
    torch.testing.assert_close(weights.double(), wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(zero.double(), (wanted * (expected >= 8)).sum(-1), rtol=1e-5, atol=1e-6)


def test_ties_go_to_the_lower_id() -> None:
    h, classifier = rand(7, 16), torch.zeros(9, 16)
    assert route(h, classifier, torch.zeros(9), 4, 6, 1.0)[0].tolist() == [[0, 1, 2, 3]] * 7
    bias = torch.tensor([0, 0, 0, 1, 0, 1, 0, 1, 1.0])
    assert route(h, classifier, bias, 3, 6, 1.0)[0].tolist() == [[3, 5, 7]] * 7


def test_no_ffn_expert_and_all_ffn_experts() -> None:
    h, classifier = rand(3, 16), torch.zeros(8, 16)
    ids, weights, zero = route(h, classifier, torch.tensor([0.0] * 4 + [1.0] * 4), 4, 4, 6.0)
    assert ids.tolist() == [[4, 5, 6, 7]] * 3
    torch.testing.assert_close(zero, weights.sum(-1))
    assert zero.tolist() == pytest.approx([3.0] * 3)
    ids, _, zero = route(h, classifier, torch.tensor([1.0] * 4 + [0.0] * 4), 4, 4, 6.0)
    assert ids.tolist() == [[0, 1, 2, 3]] * 3
    assert zero.tolist() == [0.0] * 3


@pytest.mark.parametrize("dtype", DTYPES)
def test_route_bits_are_the_tokens_own(dtype: torch.dtype) -> None:
    random.seed(4)
    h, classifier, bias = rand(40, 100, dtype=dtype), rand(48, 100), rand(48, scale=0.01)
    alone = [route(h[i : i + 1], classifier, bias, 6, 32, 6.0) for i in range(40)]
    for _ in range(40):
        rows = random.sample(range(40), random.randint(1, 40))
        batch = route(h[rows].contiguous(), classifier, bias, 6, 32, 6.0)
        assert all(torch.equal(batch[part][j], alone[i][part][0]) for j, i in enumerate(rows) for part in range(3))


@settings(max_examples=60)
@given(st.data())
def test_plan_against_the_oracle(data: st.DataObject) -> None:
    experts, zeros, workers = data.draw(st.integers(1, 6)), data.draw(st.integers(0, 4)), data.draw(st.integers(1, 4))
    top_k = data.draw(st.integers(1, experts + zeros))
    tokens = data.draw(st.integers(0, 9))
    draw = random.Random(data.draw(st.integers(0, 1 << 30)))
    ids = [sorted(draw.sample(range(experts + zeros), top_k)) for _ in range(tokens)]
    positions = i32([draw.randrange(1 << 20) for _ in range(tokens)])
    replicas = [sorted(draw.sample(range(workers), draw.randint(0, workers))) for _ in range(experts)]
    offset = i32([sum(map(len, replicas[:e])) for e in range(experts + 1)])
    flat = i32([w for holders in replicas for w in holders])
    given_ids = i32(ids).view(tokens, top_k)
    arguments = (given_ids, positions, 3, experts, offset, flat, workers)
    row, row_count, row_A, expert_A, count, reply_index = plan_rows(*arguments)
    assert all(torch.equal(a, b) for a, b in zip(plan_rows(*arguments), plan_rows_reference(*arguments), strict=True))
    worker_of = [w for w, n in enumerate(count.tolist()) for _ in range(n)]
    row_begin = [sum(row_count.tolist()[:w]) for w in range(workers)]
    for t in range(tokens):
        for choice, expert in enumerate(ids[t]):
            at = int(reply_index[t, choice])
            if expert >= experts:
                assert at == -1
            elif not replicas[expert]:
                assert at == -2
            else:
                worker = worker_of[at]
                assert worker in replicas[expert]
                assert expert_A[at] == expert
                assert row[row_begin[worker] + row_A[at]] == t
    placed = reply_index[reply_index >= 0]
    assert sorted(placed.tolist()) == list(range(len(row_A))), "every assignment is some choice's, once"


def test_replicas_share_the_rows() -> None:
    ids = torch.zeros((4000, 1), dtype=torch.int32)
    plan = plan_rows(ids, torch.arange(4000, dtype=torch.int32), 0, 1, i32([0, 4]), i32([0, 1, 2, 3]), 4)
    assert all(900 < n < 1100 for n in plan[4].tolist()), "a quarter each, give or take"


@pytest.mark.compiled
def test_bad_tables_are_named() -> None:
    ids = i32([[0]])
    for offset, worker, culprit in [
        ([0], [0], "replica_offset"),
        ([0, 2], [0], "replica_offset"),
        ([0, 1], [7], "worker 7"),
    ]:
        with pytest.raises(RuntimeError, match=f"plan_rows: .*{culprit}"):
            plan_rows(ids, i32([0]), 0, 1, i32(offset), i32(worker), 2)
