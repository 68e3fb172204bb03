"""Small checkpoints with every field and file of the published ones: the same names, other sizes and random weights.

Source: the published config.json files, as docs/longcat-flash.md lists their differences.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from support.quantized_checkpoint import is_linear, to_fp8
from support.tiny_checkpoint import random_weights, write_tokenizer
from torch import Tensor

from services.checkpoint.config import ModelConfig
from services.checkpoint.safetensors import INDEX
from services.checkpoint.tensors import draft_tensors

AUTO_MAP = {
    "AutoConfig": "configuration_longcat_flash.LongcatFlashConfig",
    "AutoModel": "modeling_longcat_flash.LongcatFlashModel",
    "AutoModelForCausalLM": "modeling_longcat_flash.LongcatFlashForCausalLM",
}
# The sizes are ours. Rope has 64 dims as published: transformers takes that where a file names no head_dim.
CHAT: dict[str, Any] = {
    "architectures": ["LongcatFlashForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "auto_map": AUTO_MAP,
    "vocab_size": 352,
    "hidden_size": 96,
    "ffn_hidden_size": 64,
    "expert_ffn_hidden_size": 32,
    "num_layers": 2,
    "num_attention_heads": 2,
    "kv_lora_rank": 48,
    "q_lora_rank": 32,
    "qk_rope_head_dim": 64,
    "v_head_dim": 16,
    "qk_nope_head_dim": 16,
    "mla_scale_q_lora": True,
    "mla_scale_kv_lora": True,
    "routed_scaling_factor": 6.0,
    "n_routed_experts": 8,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-05,
    "use_cache": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "rope_theta": 10000000.0,
    "attention_method": "MLA",
    "zero_expert_num": 4,
    "zero_expert_type": "identity",
    "moe_topk": 4,
    "transformers_version": "4.55.0",
}
YARN = {
    "beta_fast": 32,
    "beta_slow": 1,
    "factor": 10,
    "mscale": 1,
    "mscale_all_dim": 1,
    "original_max_position_embeddings": 102,
    "rope_type": "yarn",
}
THINKING_2601 = CHAT | {"rope_scaling": YARN, "rope_theta": 5000000.0, "torch_dtype": "bfloat16"}
LITE = CHAT | {
    "architectures": ["LongcatFlashNgramForCausalLM"],
    "model_type": "longcat_flash_ngram",
    "rope_theta": 5000000.0,
    "rope_scaling": YARN,
    "ngram_vocab_size_ratio": 78,
    "emb_neighbor_num": 4,
    "emb_split_num": 4,
    "torch_dtype": "bfloat16",
    "num_nextn_predict_layers": 1,
}
FP8_SIZES = {"hidden_size": 192, "expert_ffn_hidden_size": 150}
FP8_FIELDS = {
    "quant_method": "fp8",
    "fmt": "e4m3",
    "activation_scheme": "dynamic",
    "weight_block_size": [128, 128],
}
ZIGZAG = THINKING_2601 | {
    "model_type": "longcat_flash",
    "streaming_sparse_attention": {"sink_size": 128, "recent_size": 256, "sparsity": 0.5, "layer_type": "0101"},
}
SHORTCAT = CHAT | {
    "model_type": "longcat_flash",
    "dtype": "bfloat16",
    "head_dim": 64,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "rope_scaling": None,
    "qk_head_dim": 80,
    "zero_expert_num": 0,
    "moe_topk": 8,
    "tie_word_embeddings": False,
    "router_bias": False,
}
_OLDER = ("rope_theta", "rope_scaling", "auto_map")
TRANSFORMERS_5 = {name: value for name, value in SHORTCAT.items() if name not in _OLDER} | {
    "rope_parameters": {"rope_theta": 10000000.0, "rope_type": "default"},
    "zero_expert_num": 4,
    "moe_topk": 4,
    "output_router_logits": False,
    "pad_token_id": None,
    "transformers_version": "5.24.0",
}  # fmt: skip


def _mtp(config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "model.mtp.embed_tokens.weight", (config.vocab_size, config.hidden_size)
    yield from draft_tensors(config)


def _write(path: Path, raw: dict[str, Any], dtype: torch.dtype, weights: dict[str, Tensor]) -> None:
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(raw, indent=2))
    names = sorted(weights)
    files = {name: f"model_{i % 3 + 1:05}-of-00003.safetensors" for i, name in enumerate(names)}
    for file in sorted(set(files.values())):
        save_file({name: weights[name] for name in names if files[name] == file}, path / file, {"format": "pt"})
    index = {"metadata": {"total_size": sum(w.nbytes for w in weights.values())}, "weight_map": files}
    (path / INDEX).write_text(json.dumps(index))
    write_tokenizer(path, raw["vocab_size"])
    for name in ("configuration_longcat_flash.py", "modeling_longcat_flash.py"):
        (path / name).write_text('raise SystemExit("code of a model directory was run")\n')


def _plain(path: Path, raw: dict[str, Any], dtype: torch.dtype = torch.bfloat16) -> None:
    config = ModelConfig.from_dict(raw)
    weights = random_weights(config, 11, dtype)
    generator = torch.Generator().manual_seed(12)
    weights |= {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in _mtp(config)}
    _write(path, raw, dtype, weights)


def _fp8(path: Path, raw: dict[str, Any]) -> None:
    _plain(path, raw | FP8_SIZES)
    quantization = raw["quantization_config"]
    left = (*raw["disable_quant_module"], "mtp")
    to_fp8(path, lambda name: is_linear(name) and not any(f".{module}." in name for module in left),
           {"quantization_config": quantization, "disable_quant_module": raw["disable_quant_module"]})  # fmt: skip


def _fused(path: Path, raw: dict[str, Any]) -> None:
    """The experts as transformers 5 writes them: two tensors per layer, with unused rows for the zero experts."""
    config = ModelConfig.from_dict(raw)
    weights = random_weights(config, 11, torch.bfloat16)
    for layer in range(config.num_layers):
        prefix = f"model.layers.{layer}.mlp.experts."
        parts = {part: [weights.pop(f"{prefix}{e}.{part}_proj.weight") for e in range(config.n_routed_experts)]
                 for part in ("gate", "up", "down")}  # fmt: skip
        gate_up = torch.stack([torch.cat(both) for both in zip(parts["gate"], parts["up"], strict=True)])
        unused = torch.full((config.zero_expert_num, *gate_up.shape[1:]), 7.0, dtype=gate_up.dtype)
        weights[f"{prefix}gate_up_proj"] = torch.cat([gate_up, unused])
        weights[f"{prefix}down_proj"] = torch.stack(parts["down"])
    _write(path, raw, torch.bfloat16, weights)


def ignored_layers(raw: dict[str, Any]) -> list[str]:
    """What the published FP8 files leave wide, by full dotted names."""
    names = ["lm_head", "model.embed_tokens", "model.norm"]
    for layer in range(raw["num_layers"]):
        prefix = f"model.layers.{layer}."
        names += [f"{prefix}mlp.router.classifier", f"{prefix}mlp.router.e_score_correction_bias"]
        for i in (0, 1):
            names += [f"{prefix}input_layernorm.{i}.weight", f"{prefix}post_attention_layernorm.{i}.weight"]
            names += [f"{prefix}self_attn.{i}.{part}_a_layernorm" for part in ("q", "kv")]
    return names


def _quantized(raw: dict[str, Any], disabled: list[str]) -> dict[str, Any]:
    quantization = FP8_FIELDS | {"ignored_layers": ignored_layers(raw)}
    return raw | {"quantization_config": quantization, "disable_quant_module": disabled}


@dataclass(frozen=True)
class Variant:
    """One published checkpoint; `write` makes the small one. `line`: what it is refused with behind "config.json: "."""

    name: str
    raw: dict[str, Any]
    write: Callable[[Path, dict[str, Any]], None] = _plain
    oracles: tuple[str, ...] = ("transformers", "mlx-lm", "fp64")
    length: int = 300  # of the sequence that is compared
    line: str = ""


def _without(raw: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in raw.items() if name not in names}


SERVED = (
    Variant("LongCat-Flash-Chat", CHAT),
    Variant("LongCat-Flash-Chat-FP8", _quantized(CHAT, ["self_attn", "mtp"]), _fp8, ("transformers", "fp64")),
    Variant("LongCat-Flash-Thinking", CHAT | {"model_type": "longcat_flash", "torch_dtype": "bfloat16"}),
    Variant("LongCat-Flash-Thinking-2601", THINKING_2601, length=900),
    Variant("LongCat-Flash-Thinking-2601-FP8", _quantized(THINKING_2601, []), _fp8, ("transformers", "fp64")),
    Variant("LongCat-Flash-Thinking-ZigZag", ZIGZAG, oracles=("transformers", "fp64"), length=900),
    Variant("LongCat-Flash-Lite", LITE, oracles=("mlx-lm", "fp64"), length=900),
    Variant("LongCat-Flash-Lite-FP8", _without(_quantized(LITE, []), "model_type"), _fp8, ("fp64",)),
    Variant("LongCat-ShortCat", SHORTCAT, oracles=("transformers", "fp64")),
    Variant("LongCat-Flash, saved by transformers 5", TRANSFORMERS_5, _fused, ("transformers", "fp64")),
    Variant("LongCat-Flash, tied heads", SHORTCAT | {"tie_word_embeddings": True}, oracles=("fp64",)),
)
_SPARSE = CHAT | {
    "architectures": ["LongcatCausalLM"],
    "rope_theta": 1000000.0,
    "rope_scaling": YARN | {"rope_type": "deepseek_yarn", "factor": 120},
    "oe_vocab_size_ratio": 78,
    "oe_neighbor_num": 4,
    "oe_split_num": 4,
    "use_mla": 1,
    "mtp_num_layers": 1,
    "index_n_heads": 16,
    "index_head_dim": 128,
    "index_topk": 2048,
    "index_k_norm_type": "rms",
    "cli_factor": 2,
    "index_local_tokens": 1024,
    "index_init_tokens": 16,
}
_TWO = _without(_SPARSE, "auto_map", "attention_method") | {
    "oe_vocab_size_ratio": 100.567,
    "oe_neighbor_num": 5,
    "mtp_num_layers": 3,
    "mtp_replicate_modules": True,
    "mtp_disable_over_tokenizer": True,
    "dsa_mtp_cli": True,
    "moe_impl": "mix",
    "moe_switch_token_num": 1024,
    "routed_scaling_factor": 9,
}
_INDEXER = "indexer attention (index_topk) is not served"
REFUSED = (
    Variant("LongCat-Flash-Lite-Sparse", _without(_SPARSE, "auto_map") | {"attention_method": "LSA"},
            line=f"LongCat-Flash-Lite-Sparse: {_INDEXER}"),
    Variant("LongCat-2.0", _TWO | {"model_type": None}, line=f"LongCat-2.0: {_INDEXER}"),
    Variant("LongCat-2.0-FP8", _quantized(_TWO, []), line=f"LongCat-2.0: {_INDEXER}"),
    Variant("LongCat-Next", LITE | {"architectures": ["LongcatNextForCausalLM"], "model_type": "longcat_next",
                                    "text_vocab_size": 352, "visual_config": {}},
            line="LongCat-Next: a vocabulary with image and audio tokens (LongcatNextForCausalLM) is not served"),
    Variant("LongCat-Flash-Omni", CHAT | {"architectures": ["LongcatFlashOmniForCausalLM"], "audio_config": {}},
            line="LongCat-Flash-Omni: vision and audio encoders (LongcatFlashOmniForCausalLM) is not served"),
    Variant("LongCat-Flash-Lite, int4 by AutoRound", LITE | {"quantization_config": {"quant_method": "auto-round",
                                                                                     "bits": 4}},
            line="quantization_config.quant_method: 'auto-round' is not supported, only 'fp8'"),
    Variant("LongCat-Flash-Chat, 4 bit by mlx", CHAT | {"quantization": {"group_size": 64, "bits": 4}},
            line="quantization: not known here, and what it means for answers could be lost"),
)  # fmt: skip


def build(variant: Variant, path: Path) -> Path:
    """Writes the variant's checkpoint; one that is not served gets its config.json and no weights."""
    if variant.line:
        path.mkdir(parents=True, exist_ok=True)
        (path / "config.json").write_text(json.dumps(variant.raw, indent=2))
    else:
        variant.write(path, variant.raw)
    return path
