"""Which tensors a directory may hold: every one is read, or known to be of no account; the rest is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.broken_checkpoint import edit_json, edit_tensor
from support.published import SERVED, build
from support.tiny_checkpoint import make_checkpoint
from torch import Tensor

from services.attention_worker.model.model import load_model
from services.checkpoint.errors import CheckpointError
from services.checkpoint.reader import Checkpoint, load_expert
from services.checkpoint.safetensors import INDEX

FUSED = next(variant for variant in SERVED if "transformers 5" in variant.name)
TIED = next(variant for variant in SERVED if "tied" in variant.name)


def add(path: Path, **tensors: Tensor) -> Path:
    """Puts tensors into a file of their own; a double underscore in a name stands for a dot."""
    named = {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    save_file(named, path / "more.safetensors")
    index = json.loads((path / INDEX).read_text())
    index["weight_map"] |= dict.fromkeys(named, "more.safetensors")
    (path / INDEX).write_text(json.dumps(index))
    return path


def error_of(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(path)
    return str(caught.value)


UNREAD = "is not known: nothing reads it, and the model would lack its part"


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.0.indexer.wk.weight",
        "model.oe_embed_tokens0.weight",
        "model.layers.0.self_attn.0.q_a_proj.bias",
        "model.layers.2.input_layernorm.0.weight",
        "model.layers.0.mlp.experts.8.gate_proj.weight",
        "model.layers.0.self_attn.0.o_proj.weight_scale_inv",
        "visual.patch_embed.weight",
    ],
)
def test_a_tensor_that_nothing_reads_is_refused(tmp_path: Path, name: str) -> None:
    path = add(make_checkpoint(tmp_path), **{name: torch.zeros(2, 2)})
    assert error_of(path) == f"more.safetensors: {name}: {UNREAD}"


def test_drafts_and_computed_buffers_are_no_part_of_the_model(tmp_path: Path) -> None:
    path = add(
        make_checkpoint(tmp_path),
        model__mtp__layers__0__eh_proj__weight=torch.zeros(2, 2),
        model__layers__0__self_attn__0__rotary_emb__inv_freq=torch.zeros(4),
        model__rotary_emb__inv_freq=torch.zeros(4),
    )
    Checkpoint.open(path)


def test_no_dtype_given_is_what_the_tensors_are_stored_in(tmp_path: Path) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        path = make_checkpoint(tmp_path / str(dtype), dtype=dtype)
        edit_json(path / "config.json", lambda raw: raw.pop("torch_dtype"))
        assert Checkpoint.open(path).config.torch_dtype == str(dtype).removeprefix("torch.")


def test_half_precision_is_refused_by_name(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path)
    edit_tensor(path, "model.norm.weight", lambda weight: weight.half())
    assert "model.norm.weight: dtype F16 is not supported, only BF16 and F32, matrices also F8_E4M3" in error_of(path)
    edit_json(path / "config.json", lambda raw: raw.update(torch_dtype="float16"))
    assert error_of(path) == (
        "config.json: torch_dtype: 'float16' is not served; convert the weights to bfloat16 or float32"
    )


def test_fused_experts_are_those_of_single_ones(tmp_path: Path) -> None:
    """Both directories have the same seed; the fused one has rows for the zero experts, filled with sevens."""
    single = make_checkpoint(tmp_path / "single", FUSED.raw, seed=11, dtype=torch.bfloat16)
    ours, theirs = (Checkpoint.open(path) for path in (build(FUSED, tmp_path / "fused"), single))
    assert ours.is_fused(0)
    assert not theirs.is_fused(0)
    for layer, expert in ((0, 0), (1, 7)):
        one, other = (load_expert(each, layer, expert, torch.bfloat16) for each in (ours, theirs))
        assert torch.equal(one.gate_up_2FD, other.gate_up_2FD)
        assert torch.equal(one.down_DF, other.down_DF)


def test_fused_experts_of_a_wrong_shape_are_named(tmp_path: Path) -> None:
    path = build(FUSED, tmp_path)
    edit_json(path / "config.json", lambda raw: raw.update(n_routed_experts=9, zero_expert_num=3))
    assert "mlp.experts.down_proj: shape [8, 96, 32], config.json makes it [9, 96, 32]" in error_of(path)


def test_a_single_file_beside_an_index_that_does_not_name_it_is_refused(tmp_path: Path) -> None:
    """transformers would load the one, and we the other."""
    path = make_checkpoint(tmp_path)
    save_file({"lm_head.weight": torch.zeros(2, 2)}, path / "model.safetensors")
    assert "model.safetensors: lies beside model.safetensors.index.json, which does not name it" in error_of(path)


def test_an_adapter_is_refused(tmp_path: Path) -> None:
    (make_checkpoint(tmp_path) / "adapter_config.json").write_text("{}")
    assert error_of(tmp_path) == "adapter_config.json: adapters are not served; merge it into the weights"


def test_a_head_of_its_own_contradicts_a_tied_one(tmp_path: Path) -> None:
    path = build(TIED, tmp_path)
    embedding = Checkpoint.open(path).tensor("model.embed_tokens.weight", torch.bfloat16)
    Checkpoint.open(add(path, lm_head__weight=embedding.clone()))
    edit_tensor(path, "lm_head.weight", lambda weight: weight * 2)
    assert "lm_head.weight: is not the embedding, and config.json says tie_word_embeddings" in error_of(path)


def test_tied_heads_are_one_tensor_in_memory(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(build(TIED, tmp_path))
    assert "lm_head.weight" not in checkpoint.names()
    model = load_model(checkpoint, torch.bfloat16, lambda done, total: None)
    assert model._head_VD.data_ptr() == model._embed.word_VD.data_ptr()
