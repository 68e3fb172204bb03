"""route, plan_rows and route_rows in Triton: right against fp64, the plan the reference's, a token's bits its own."""

from __future__ import annotations

import random

import caracal_kernels.triton  # noqa: F401  before triton
import pytest
import torch
from caracal_kernels.plan_rows import plan_rows_reference
from caracal_kernels.triton.plan_rows import plan_rows_triton
from caracal_kernels.triton.route import route_rows_triton, route_rows_untrimmed, route_triton
from support.gpu_inputs import batch_sizes
from support.op_inputs import DEVICE, DTYPES, i32, rand
from support.poisoned_memory import poisoned_memory
from torch import Tensor

Table = tuple[Tensor, Tensor, int]


def replicas(experts: int, workers: int, most: int) -> Table:
    """0 to `most` workers for each expert: (offsets, workers, how many there are)."""
    held = [random.sample(range(workers), random.randint(0, min(most, workers))) for _ in range(experts)]
    offset = [sum(map(len, held[:e])) for e in range(experts + 1)]
    return i32(offset), i32([worker for one in held for worker in one]), workers


def same(actual: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(a.cpu(), b) for a, b in zip(actual, expected, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("tokens", "gates", "top_k", "norm"), [(0, 9, 4, False), (1, 9, 9, True), (30, 48, 6, False)])
def test_route_agrees_with_fp64(tokens: int, gates: int, top_k: int, norm: bool, dtype: torch.dtype) -> None:
    h, classifier, bias = (
        x.to(DEVICE) for x in (rand(tokens, 72, dtype=dtype), rand(gates, 72, scale=0.3), rand(gates, scale=0.05))
    )
    with poisoned_memory():
        ids, weights, zero = route_triton(h, classifier, bias, top_k, 6, 2.5, norm)
    scores = torch.softmax(h.double() @ classifier.double().T, -1)
    expected = torch.topk(scores + bias, top_k).indices.sort(-1).values
    assert torch.equal(ids.long(), expected)
    wanted = scores.gather(1, expected)
    wanted = 2.5 * (wanted / wanted.sum(-1, keepdim=True) if norm else wanted)
    torch.testing.assert_close(weights.double(), wanted, rtol=1e-5, atol=1e-6)
    in_order = torch.zeros_like(zero)
    for choice in range(top_k):
        in_order += torch.where(ids[:, choice] >= 6, weights[:, choice], 0.0)
    assert torch.equal(zero, in_order), "fp32, by ascending id"


def test_ties_go_to_the_lower_id() -> None:
    h, classifier = rand(3, 16).to(DEVICE), torch.zeros(9, 16, device=DEVICE)
    bias = torch.tensor([0, -0.0, 0, 1, 0, 1, 0, 1, 1.0], device=DEVICE)
    assert route_triton(h, classifier, bias, 3, 6, 1.0)[0].tolist() == [[3, 5, 7]] * 3
    assert route_triton(h, classifier, torch.full_like(bias, -1.0), 4, 6, 1.0)[0].tolist() == [[0, 1, 2, 3]] * 3


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_what_is_no_number_stays_in_bounds() -> None:
    h, classifier = rand(2, 16), rand(9, 16)
    h[0, 3] = float("nan")
    ids, _, _ = route_triton(h.to(DEVICE), classifier.to(DEVICE), torch.zeros(9, device=DEVICE), 4, 6, 1.0)
    assert ((ids >= 0) & (ids < 9)).all()
    assert (ids.diff(dim=1) > 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_route_bits_are_the_tokens_own(dtype: torch.dtype) -> None:
    random.seed(4)
    h, classifier, bias = (x.to(DEVICE) for x in (rand(24, 100, dtype=dtype), rand(48, 100), rand(48, scale=0.01)))
    whole = route_triton(h, classifier, bias, 6, 32, 6.0)
    for size in batch_sizes([1, 2, 5, 9]):
        rows = random.sample(range(24), size)
        batch = route_triton(h[rows], classifier, bias, 6, 32, 6.0)
        assert all(torch.equal(part, own[rows]) for part, own in zip(batch, whole, strict=True))


def assignments_of(ids: Tensor, plan: tuple[Tensor, ...]) -> list[list[tuple[int, int]]]:
    """Each token's (expert, worker), read from the lists the workers get; `reply_index` has to say the same."""
    row, row_count, row_A, expert_A, count, reply_index = (x.cpu() for x in plan)
    token_of, expert_of, worker_of = [], expert_A.tolist(), []
    lists = zip(row.split(row_count.tolist()), row_A.split(count.tolist()), strict=True)
    for worker, (rows, assigned) in enumerate(lists):
        token_of += rows[assigned.long()].tolist()
        worker_of += [worker] * len(assigned)
    wanted: list[list[tuple[int, int]]] = [[] for _ in ids]
    for token, expert, worker in zip(token_of, expert_of, worker_of, strict=True):
        wanted[token].append((expert, worker))
    for token, (experts, places) in enumerate(zip(ids.tolist(), reply_index.tolist(), strict=True)):
        here = [(expert, place) for expert, place in zip(experts, places, strict=True) if place >= 0]
        assert len(here) == len(wanted[token])
        assert all((token_of[place], expert_of[place]) == (token, expert) for expert, place in here)
    return [sorted(each) for each in wanted]


def test_a_tokens_experts_and_replicas_do_not_depend_on_its_neighbours() -> None:
    """Many batches of plan_rows and of route_rows; places in the lists differ, who computes what does not."""
    random.seed(8)
    h, classifier, bias = (x.to(DEVICE) for x in (rand(48, 40), rand(30, 40), rand(30, scale=0.02)))
    offset, worker_of, workers = replicas(20, 7, 3)
    table = offset.to(DEVICE), worker_of.to(DEVICE), workers
    positions = i32([random.randrange(1 << 17) for _ in range(48)]).to(DEVICE)

    def run(tokens: list[int]) -> tuple[tuple[Tensor, ...], list[list[tuple[int, int]]]]:
        h_TD, at = h[tokens], positions[tokens]
        with poisoned_memory():
            routed = route_rows_triton(h_TD, classifier, bias, 5, 20, 6.0, False, at, 3, *table)
            route, plan = routed[:3], routed[3:]
            again = plan_rows_triton(route[0], at, 3, 20, *table)
        assigned = assignments_of(route[0].cpu(), plan)
        assert assignments_of(route[0].cpu(), again) == assigned
        return route, assigned

    whole, wanted = run(list(range(48)))
    assert len({worker for each in wanted for _, worker in each}) > 3
    for size in batch_sizes([1, 2, 5, 9, 20]):
        tokens = random.sample(range(48), size)
        route, assigned = run(tokens)
        assert all(torch.equal(part, own[tokens]) for part, own in zip(route, whole, strict=True))
        assert assigned == [wanted[token] for token in tokens]


@pytest.mark.parametrize("top_k", [1, 12])
def test_plans_are_the_references(top_k: int) -> None:
    """No tokens, one, and several chunks of them; experts nobody chose, nobody holds, or several workers hold."""
    random.seed(top_k)
    for tokens in (0, 1, 5, 40, 130):
        for experts, zeros, workers, most in [(20, 6, 1, 1), (40, 20, 9, 3), (12, 0, 40, 40)]:
            if tokens == 40 and workers == 1:  # five tokens and 130 of them say the same
                continue
            offset, worker_of, _ = table = replicas(experts, workers, most)
            ids = i32([sorted(random.sample(range(experts + zeros), top_k)) for _ in range(tokens)]).view(tokens, top_k)
            positions = i32([random.randrange(1 << 31) for _ in range(tokens)])
            layer = random.choice([0, 1, 16, 27])
            with poisoned_memory():
                plan = plan_rows_triton(
                    ids.to(DEVICE),
                    positions.to(DEVICE),
                    layer,
                    experts,
                    offset.to(DEVICE),
                    worker_of.to(DEVICE),
                    workers,
                )
            assert same(plan, plan_rows_reference(ids, positions, layer, experts, *table))


def test_an_expert_or_a_worker_named_twice_and_a_worker_that_is_none() -> None:
    ids, positions = i32([[0, 1, 1]] * 60), torch.arange(60, dtype=torch.int32)
    arguments = (ids, positions, 5, 2, i32([0, 2, 5]), i32([0, 1, 1, 0, 1]), 2)
    on_device = tuple(x.to(DEVICE) if isinstance(x, Tensor) else x for x in arguments)
    assert same(plan_rows_triton(*on_device), plan_rows_reference(*arguments))  # type: ignore[arg-type]
    outside = plan_rows_triton(*on_device[:5], i32([0, 1, 9, 9, 9]).to(DEVICE), 2)  # type: ignore[call-arg, arg-type]
    assert (outside[5][:, 1:] == -2).all()
    assert outside[4].sum() == 60


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [0, 1, 50])
def test_route_rows_is_route_and_plan_rows(tokens: int, dtype: torch.dtype) -> None:
    random.seed(6)
    h, classifier, bias = (x.to(DEVICE) for x in (rand(tokens, 72, dtype=dtype), rand(30, 72), rand(30, scale=0.02)))
    table = replicas(20, 7, 3)
    positions = torch.arange(tokens, dtype=torch.int32)
    rest = (positions.to(DEVICE), 3, table[0].to(DEVICE), table[1].to(DEVICE), table[2])
    with poisoned_memory():
        routed = route_rows_triton(h, classifier, bias, 5, 20, 6.0, False, *rest)
        route, plan = routed[:3], routed[3:]
        _, (row, _, row_A, _, _, _) = route_rows_untrimmed(h, classifier, bias, 5, 20, 6.0, False, *rest)
    assert same(route, tuple(x.cpu() for x in route_triton(h, classifier, bias, 5, 20, 6.0)))
    assert same(plan, plan_rows_reference(route[0].cpu(), positions, 3, 20, *table))
    assert (len(row), len(row_A)) == (tokens * 5, tokens * 5)
    nobody = 2**31 - 1
    assert torch.equal(row[: len(plan[0])], plan[0])
    assert (row[len(plan[0]) :] == nobody).all(), "nothing past the counts is written"
    assert (row_A[len(plan[2]) :] == nobody).all()
