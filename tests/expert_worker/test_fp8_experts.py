"""Experts that stay in fp8, beside others that do not: each answers as it does alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from caracal_kernels import grouped_swiglu, grouped_swiglu_fp8
from support.broken_checkpoint import edit_tensor
from support.quantized_checkpoint import is_linear, to_fp8
from support.tiny_checkpoint import UNEVEN, make_checkpoint

from services.checkpoint.errors import CheckpointError
from services.checkpoint.reader import Checkpoint, load_expert
from services.expert_worker.experts import Experts

BF16 = torch.bfloat16
SIZES: dict[str, Any] = UNEVEN | {"hidden_size": 264, "expert_ffn_hidden_size": 150}
WIDE = ("experts.2.", "experts.5.down_proj")  # one fp8 matrix is not enough: expert 5 is computed in bf16


def in_fp8(name: str) -> bool:
    return is_linear(name) and not any(part in name for part in WIDE)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return Checkpoint.open(to_fp8(make_checkpoint(tmp_path_factory.mktemp("fp8"), SIZES, dtype=BF16), in_fp8))


@pytest.fixture(scope="module")
def experts(checkpoint: Checkpoint) -> Experts:
    experts = Experts(checkpoint, BF16, keep_fp8=True)
    for expert in range(7):
        experts.load(1, expert)
    return experts


def one(count: int) -> torch.Tensor:
    return torch.full((1,), count, dtype=torch.int32)


def alone(checkpoint: Checkpoint, expert: int, x_RD: torch.Tensor) -> torch.Tensor:
    weights, rows = load_expert(checkpoint, 1, expert, BF16, keep_fp8=True), torch.arange(len(x_RD), dtype=torch.int32)
    if weights.gate_up_scale is None or weights.down_scale is None:
        return grouped_swiglu(x_RD, rows, one(len(x_RD)), [weights.gate_up_2FD], [weights.down_DF])
    gate_up, down = ([weights.gate_up_2FD], [weights.gate_up_scale]), ([weights.down_DF], [weights.down_scale])
    return grouped_swiglu_fp8(x_RD, rows, one(len(x_RD)), *gate_up, *down)


def test_which_experts_stay_in_fp8(checkpoint: Checkpoint) -> None:
    kept = [load_expert(checkpoint, 1, expert, BF16, keep_fp8=True) for expert in range(7)]
    assert [each.down_DF.dtype == torch.float8_e4m3fn for each in kept] == [e not in (2, 5) for e in range(7)]
    assert load_expert(checkpoint, 1, 0, BF16).down_DF.dtype == BF16


@pytest.mark.parametrize("wanted", [[0, 1, 3], [2, 5], [0, 1, 2, 3, 5, 6], [5, 6]])
def test_mixed_layers_answer_as_each_expert_alone(checkpoint: Checkpoint, experts: Experts, wanted: list[int]) -> None:
    x_RD = torch.randn(5, 264, generator=torch.Generator().manual_seed(1)).to(BF16)
    assignments = [(expert, row) for expert in wanted for row in range(5) if (expert + row) % 3]
    expert_A, row_A = (torch.tensor(each, dtype=torch.int32) for each in zip(*assignments, strict=True))
    y_AD = experts.compute(1, x_RD, row_A, expert_A)
    expected = torch.stack([alone(checkpoint, expert, x_RD[row : row + 1])[0] for expert, row in assignments])
    assert torch.equal(y_AD, expected)


def test_fp8_is_near_bf16_and_not_equal(checkpoint: Checkpoint, experts: Experts) -> None:
    wide = Experts(checkpoint, BF16)
    wide.load(1, 0)
    x_RD, zeros = torch.randn(3, 264).to(BF16), torch.zeros(3, dtype=torch.int32)
    rows = torch.arange(3, dtype=torch.int32)
    exact, found = (each.compute(1, x_RD, rows, zeros).double() for each in (wide, experts))
    assert 0 < (exact - found).norm() / exact.norm() < 0.08
    assert wide.load(1, 0) != experts.load(1, 0), "the golden digests of the two kinds differ"


def test_half_the_bytes_are_read(checkpoint: Checkpoint) -> None:
    experts = Experts(checkpoint, BF16, keep_fp8=True)
    experts.load(1, 0)
    scales = 4 * (2 * 2 * 3 + 3 * 2)
    assert experts.staging.bytes == 3 * 150 * 264 + scales


@pytest.mark.parametrize("what", ["down_proj.weight", "down_proj.weight_scale_inv"])
def test_weights_that_are_not_finite_are_an_error(tmp_path: Path, what: str) -> None:
    path = to_fp8(make_checkpoint(tmp_path / "fp8", SIZES, dtype=BF16))
    name = f"model.layers.0.mlp.experts.1.{what}"
    edit_tensor(path, name, lambda stored: (stored.float() * torch.nan).to(stored.dtype))
    with pytest.raises(CheckpointError, match=rf"experts\.1\.{what}: holds "):
        load_expert(Checkpoint.open(path), 0, 1, BF16, keep_fp8=True)
