"""Matrices of an fp8 checkpoint as CPU workers load them: 8-bit where they fit, and always with the dequantized bits.

Legend: N outputs, K inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from caracal_kernels import linear, mla_values, outputs_of
from support.broken_checkpoint import edit_tensor
from support.quantized_checkpoint import BLOCKS, is_linear, to_fp8
from support.tiny_checkpoint import UNEVEN, make_checkpoint
from torch import Tensor

from services.attention_worker.model.load import Load
from services.attention_worker.model.shard import Shard
from services.checkpoint.errors import CheckpointError
from services.checkpoint.fp8 import SCALE_SUFFIX
from services.checkpoint.packing import load_packed, load_packed_expert
from services.checkpoint.reader import Checkpoint, ExpertWeights, load_expert
from services.expert_worker.experts import Experts, golden_digest

pytestmark = pytest.mark.compiled
BF16 = torch.bfloat16
PREFIX = "model.layers.0."
KV_A, KV_B = (f"{PREFIX}self_attn.0.{name}.weight" for name in ("kv_a_proj_with_mqa", "kv_b_proj"))
GATE, DOWN, UP = (f"{PREFIX}mlps.0.{name}_proj.weight" for name in ("gate", "down", "up"))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return to_fp8(make_checkpoint(tmp_path_factory.mktemp("fp8"), BLOCKS, dtype=BF16))


@pytest.fixture(scope="module")
def checkpoint(path: Path) -> Checkpoint:
    return Checkpoint.open(path)


def assert_same_products(packed: Tensor, wide_NK: Tensor) -> None:
    x = torch.randn(9, wide_NK.shape[1], generator=torch.Generator().manual_seed(0)).to(BF16)
    assert outputs_of(packed) == len(wide_NK)
    for rows in (1, 9):
        assert torch.equal(linear(x[:rows], packed), linear(x[:rows], wide_NK))


@pytest.mark.parametrize(
    ("name", "rows", "in_fp8"),
    [
        (KV_A, None, True),
        (KV_A, range(64, 192), True),
        (KV_A, range(64, 128), True),
        (KV_A, range(60, 124), False),
        (KV_A, range(96), False),
        (GATE, None, True),
        (DOWN, None, False),
        ("lm_head.weight", None, False),
    ],
)
def test_which_matrices_stay_in_fp8(checkpoint: Checkpoint, name: str, rows: range | None, in_fp8: bool) -> None:
    packed = load_packed(checkpoint, [name], BF16, rows=rows)
    assert (packed.dtype == torch.uint8) == in_fp8
    assert_same_products(packed, checkpoint.tensor(name, BF16, rows=rows))


def test_none_does_for_models_in_fp32(checkpoint: Checkpoint) -> None:
    assert load_packed(checkpoint, [KV_A], torch.float32).dtype == torch.float32


def test_two_matrices_are_one_below_the_other(checkpoint: Checkpoint, tmp_path: Path) -> None:
    wide = torch.cat([checkpoint.tensor(name, BF16) for name in (GATE, UP)])
    both = load_packed(checkpoint, [GATE, UP], BF16)
    assert both.dtype == torch.uint8
    assert_same_products(both, wide)
    half = Checkpoint.open(to_fp8(make_checkpoint(tmp_path, BLOCKS, dtype=BF16), lambda name: name == GATE))
    mixed = load_packed(half, [GATE, UP], BF16)
    assert mixed.dtype == BF16, "one of them is stored in bf16"
    assert_same_products(mixed, torch.cat([half.tensor(name, BF16) for name in (GATE, UP)]))


@pytest.mark.parametrize("shard", [Shard(), Shard(1, 2)])
def test_the_halves_of_kv_b(checkpoint: Checkpoint, shard: Shard) -> None:
    class OneOfTheRanks:
        def __init__(self) -> None:
            self.shard = shard

    load = Load(checkpoint, BF16, lambda done, total: None, OneOfTheRanks())  # type: ignore[arg-type]
    mla = load.mla("model.layers.0.input_layernorm.0.weight", "model.layers.0.self_attn.0.", torch.zeros(1))
    rows = shard.rows(2, 256)
    keys_HNC, values_HUC = checkpoint.tensor(KV_B, BF16, rows=rows).view(-1, 256, 128).split(128, dim=1)
    assert mla.w_uk_HCN.dtype == mla.w_uv_HUC.dtype == torch.uint8
    for packed, wide in (
        (mla.w_uk_HCN, keys_HNC.transpose(1, 2).contiguous()),
        (mla.w_uv_HUC, values_HUC.contiguous()),
    ):
        x = torch.randn(5, len(wide), 128, generator=torch.Generator().manual_seed(0)).to(BF16)
        assert torch.equal(mla_values(x, packed), mla_values(x, wide))


def digest(weights: ExpertWeights) -> int:
    return golden_digest(weights, BF16, 0, 0)


def test_experts_stay_8_bit_and_have_the_digest_of_dequantized_ones(checkpoint: Checkpoint) -> None:
    experts = Experts(checkpoint, BF16)
    for expert in range(checkpoint.config.n_routed_experts):
        kept, wide = load_packed_expert(checkpoint, 1, expert, BF16), load_expert(checkpoint, 1, expert, BF16)
        assert kept.gate_up_2FD.dtype == kept.down_DF.dtype == torch.uint8
        assert kept.gate_up_scale is None, "they are computed in bf16"
        assert digest(kept) == digest(wide)
        found = experts.load(1, expert)
        checksums = [checksum for _, _, checksum in experts.tensors(1, expert)]
        assert found == golden_digest(wide, BF16, 1, expert, checksums)
    values = 8 * 3 * 128 * 128
    assert experts.staging.bytes == values + 8 * 3 * 4, "scales are fp32"


def test_experts_that_do_not_fit_are_dequantized(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(to_fp8(make_checkpoint(tmp_path, UNEVEN, dtype=BF16)))
    kept = load_packed_expert(checkpoint, 1, 3, BF16)
    assert kept.gate_up_2FD.dtype == BF16
    assert digest(kept) == digest(load_expert(checkpoint, 1, 3, BF16))


def test_the_memory_of_experts_is_half(checkpoint: Checkpoint) -> None:
    kept, wide = (load(checkpoint, 0, 0, BF16) for load in (load_packed_expert, load_expert))
    assert wide.down_DF.nbytes == 2 * 128 * 128
    assert kept.down_DF.nbytes == 128 * 128 + 2 * 64, "and 64 bytes with the scale in each block of 64 x 128"
    assert 2 * kept.gate_up_2FD.nbytes < 1.02 * wide.gate_up_2FD.nbytes


def with_nan(stored: Tensor) -> Tensor:
    codes = stored.view(torch.uint8).clone()
    codes[-1, -1] = 0x7F
    return codes.view(stored.dtype)


@pytest.mark.parametrize(
    ("suffix", "change", "expected"),
    [
        ("", with_nan, ": holds NaN"),
        (SCALE_SUFFIX, lambda scale: scale * torch.nan, "_scale_inv: holds scales that are not positive numbers"),
        (SCALE_SUFFIX, lambda scale: scale * 0, "_scale_inv: holds scales that are not positive numbers"),
        (SCALE_SUFFIX, lambda scale: scale * 0 + 2.0**121, ": holds NaN, infinity, or values too large for bfloat16"),
    ],
)
def test_what_is_not_finite_is_rejected_by_name(
    tmp_path: Path, suffix: str, change: Callable[[Tensor], Tensor], expected: str
) -> None:
    path = to_fp8(make_checkpoint(tmp_path, BLOCKS, dtype=BF16), is_linear)
    name = "model.layers.0.mlp.experts.1.up_proj.weight"
    edit_tensor(path, name + suffix, change)
    with pytest.raises(CheckpointError, match=rf"experts\.1\.up_proj\.weight{expected}"):
        load_packed_expert(Checkpoint.open(path), 0, 1, BF16)


def test_a_scale_that_only_the_largest_code_would_overflow_is_served(tmp_path: Path) -> None:
    path = to_fp8(make_checkpoint(tmp_path, BLOCKS, dtype=BF16))
    edit_tensor(path, KV_A, lambda stored: torch.ones(stored.shape).to(stored.dtype))
    edit_tensor(path, KV_A + SCALE_SUFFIX, lambda scale: scale * 0 + 2.0**121)
    checkpoint = Checkpoint.open(path)
    packed = load_packed(checkpoint, [KV_A], BF16)
    assert packed.dtype == torch.uint8
    assert_same_products(packed, checkpoint.tensor(KV_A, BF16))
