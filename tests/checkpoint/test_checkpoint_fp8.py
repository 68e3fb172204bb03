"""Block-scaled fp8 checkpoints, whole and in part: read correctly, or rejected with the name of the tensor or field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.broken_checkpoint import edit_json, edit_tensor
from support.quantized_checkpoint import CONFIG, is_linear, to_fp8, widened
from support.tiny_checkpoint import UNEVEN, make_checkpoint

from services.attention_worker.model.load import Load
from services.checkpoint.errors import CheckpointError
from services.checkpoint.fp8 import SCALE_SUFFIX
from services.checkpoint.reader import Checkpoint, load_expert
from services.checkpoint.tensors import attention_tensors, expert_tensors

GATE = "model.layers.1.mlp.experts.3.gate_proj.weight"
QUERY = "model.layers.0.self_attn.1.q_a_proj.weight"
# Several blocks each way, the last ones cut off.
SIZES: dict[str, Any] = UNEVEN | {"hidden_size": 264, "expert_ffn_hidden_size": 150}


@pytest.fixture
def fp8(tmp_path: Path) -> Path:
    return to_fp8(make_checkpoint(tmp_path / "fp8", SIZES, dtype=torch.bfloat16))


def error_of(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(path)
    return str(caught.value)


def assert_same_weights(one: Path, other: Path) -> None:
    first, second = Checkpoint.open(one), Checkpoint.open(other)
    for name, _ in [*attention_tensors(first.config), *expert_tensors(first.config)]:
        assert torch.equal(first.tensor(name, torch.bfloat16), second.tensor(name, torch.bfloat16)), name


def test_weights_are_stored_values_times_their_blocks_scales(fp8: Path, tmp_path: Path) -> None:
    assert_same_weights(fp8, widened(fp8, tmp_path / "wide"))


def test_quantised_weights_are_near_the_original(fp8: Path, tmp_path: Path) -> None:
    """A comparison with the weights before quantisation shows that scales are multiplied, not divided."""
    before = Checkpoint.open(make_checkpoint(tmp_path / "before", SIZES, dtype=torch.bfloat16))
    after = Checkpoint.open(fp8)
    for name in (GATE, QUERY):
        error = after.tensor(name, torch.float32) - before.tensor(name, torch.float32)
        assert 0 < error.norm() / before.tensor(name, torch.float32).norm() < 0.04


@pytest.mark.parametrize(
    ("left", "config"),
    [
        ("self_attn", {"quantization_config": CONFIG, "disable_quant_module": ["self_attn", "mtp"]}),
        ("mlps", {"quantization_config": CONFIG, "disable_quant_module": ["mlps"]}),
        ("layers.1.mlp", {"quantization_config": CONFIG | {"ignored_layers": ["model.layers.1.mlp", "lm_head"]}}),
        ("o_proj", {"quantization_config": CONFIG | {"modules_to_not_convert": ["o_proj"]}}),
    ],
)
def test_modules_excluded_from_fp8(tmp_path: Path, left: str, config: dict[str, Any]) -> None:
    path = make_checkpoint(tmp_path / "fp8", SIZES, dtype=torch.bfloat16)
    to_fp8(path, lambda name: is_linear(name) and f".{left}." not in name, config)
    assert_same_weights(path, widened(path, tmp_path / "wide"))


def test_an_excluded_linear_that_is_fp8_is_rejected(fp8: Path) -> None:
    edit_json(fp8 / "config.json", lambda raw: raw.update(disable_quant_module=["self_attn"]))
    message = error_of(fp8)
    assert "self_attn.0.q_a_proj.weight: is stored as F8_E4M3, and self_attn is excluded from fp8" in message


def test_a_linear_may_be_bf16_without_an_exclusion(tmp_path: Path) -> None:
    path = to_fp8(make_checkpoint(tmp_path / "fp8", SIZES, dtype=torch.bfloat16), lambda name: name == GATE)
    assert_same_weights(path, widened(path, tmp_path / "wide"))


def test_attention_and_expert_loaders_read_it(fp8: Path, tmp_path: Path) -> None:
    wide = Checkpoint.open(widened(fp8, tmp_path / "wide"))
    checkpoint = Checkpoint.open(fp8)
    one, other = (load_expert(each, 1, 3, torch.bfloat16) for each in (checkpoint, wide))
    assert torch.equal(one.gate_up_2FD, other.gate_up_2FD)
    assert torch.equal(one.down_DF, other.down_DF)
    loads = [Load(each, torch.bfloat16, lambda done, total: None) for each in (checkpoint, wide)]
    assert torch.equal(*(load(QUERY) for load in loads))
    assert checkpoint.digest != wide.digest


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"quant_method": "awq"}, "quantization_config.quant_method: 'awq' is not supported, only 'fp8'"),
        ({"weight_block_size": [64, 64]}, "quantization_config.weight_block_size: [64, 64] is not supported"),
        ({"weight_block_size": None}, "quantization_config.weight_block_size: None is not supported"),
        ({"fmt": "e5m2"}, "quantization_config.fmt: 'e5m2' is not supported, only 'e4m3'"),
        ({"activation_scheme": "static"}, "activation_scheme: 'static' is not supported, only 'dynamic'"),
        ({"ignored_layers": "lm_head"}, "ignored_layers: 'lm_head' is not a list of module names"),
        ({"ignored_layers": [7]}, "ignored_layers: [7] is not a list of module names"),
    ],
)
def test_settings_that_are_not_supported(fp8: Path, change: dict[str, Any], expected: str) -> None:
    edit_json(fp8 / "config.json", lambda raw: raw.update(quantization_config=CONFIG | change))
    assert expected in error_of(fp8)


def test_fp8_without_a_quantization_config(fp8: Path) -> None:
    edit_json(fp8 / "config.json", lambda raw: raw.pop("quantization_config"))
    assert "is stored as F8_E4M3, and config.json has no quantization_config" in error_of(fp8)


def test_scales_that_are_missing_or_wrong(fp8: Path, tmp_path: Path) -> None:
    scale = GATE + SCALE_SUFFIX
    edit_tensor(fp8, scale, lambda scale_nk: scale_nk[:-1])
    assert f"{scale}: shape [1, 3], config.json makes it [2, 3]" in error_of(fp8)
    edit_tensor(fp8, scale, lambda scale_nk: torch.ones((2, 3), dtype=torch.bfloat16))
    assert f"{scale}: dtype BF16, scales are F32" in error_of(fp8)
    bare = to_fp8(make_checkpoint(tmp_path / "bare", SIZES, dtype=torch.bfloat16))
    edit_tensor(bare, "lm_head.weight", lambda weight: weight.to(torch.float8_e4m3fn))
    assert "lm_head.weight: is stored as F8_E4M3, and lm_head is excluded from fp8" in error_of(bare)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 0.0, -1.0])
def test_scales_that_are_no_positive_numbers(fp8: Path, value: float) -> None:
    edit_tensor(fp8, GATE + SCALE_SUFFIX, lambda scale_nk: scale_nk * value)
    with pytest.raises(CheckpointError, match=r"gate_proj\.weight_scale_inv: holds scales that are not"):
        load_expert(Checkpoint.open(fp8), 1, 3, torch.bfloat16)
