"""Random-weight LongCat-Flash directories in Hugging Face's layout, for tests and benchmarks.

As a command: `python tests/support/tiny_checkpoint.py OUT [--preset plain] [--config FILE] [--seed 0]
[--dtype bfloat16] [--drafts]`.
"""

from __future__ import annotations

import argparse
import json
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from support.gateway_assets import TEMPLATE, train_tokenizer
from torch import Tensor

from services.checkpoint.config import ModelConfig
from services.checkpoint.safetensors import INDEX
from services.checkpoint.tensors import attention_tensors, draft_tensors, expert_tensors, ngram_tables

PLAIN: dict[str, Any] = {
    "model_type": "longcat_flash",
    "architectures": ["LongcatFlashForCausalLM"],
    "vocab_size": 320,
    "hidden_size": 64,
    "num_layers": 2,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "ffn_hidden_size": 96,
    "q_lora_rank": 32,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "head_dim": 8,
    "v_head_dim": 16,
    "moe_topk": 4,
    "n_routed_experts": 8,
    "zero_expert_num": 4,
    "zero_expert_type": "identity",
    "expert_ffn_hidden_size": 32,
    "routed_scaling_factor": 2.5,
    "max_position_embeddings": 512,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# Both zero and FFN experts are at least top-k many, so tokens with no and tokens with only FFN experts both occur.
WIDE_TOP_K = PLAIN | {"moe_topk": 3, "n_routed_experts": 5, "zero_expert_num": 5}
UNEVEN = PLAIN | {
    "hidden_size": 72,
    "num_attention_heads": 3,
    "vocab_size": 1009,
    "n_routed_experts": 7,
    "zero_expert_num": 3,
    "ffn_hidden_size": 101,
    "expert_ffn_hidden_size": 37,
    "q_lora_rank": 20,
    "kv_lora_rank": 24,
    "qk_nope_head_dim": 12,
    "v_head_dim": 10,
}
# An n-gram reads the ids before a token, up to the last end of a sequence, id 2.
NGRAM = WIDE_TOP_K | {
    "architectures": ["LongcatFlashNgramForCausalLM"],
    "ngram_vocab_size_ratio": 9.5,
    "emb_neighbor_num": 5,
    "emb_split_num": 2,
    "rope_scaling": {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 30},
}
PRESETS = {"plain": PLAIN, "wide_top_k": WIDE_TOP_K, "uneven": UNEVEN}


def random_weights(
    config: ModelConfig, seed: int, dtype: torch.dtype, bias_scale: float = 0.02, *, drafts: bool = False
) -> dict[str, Tensor]:
    """Returns every tensor, from one generator in the order of the names; norms near 1, the router in fp32.

    `drafts`: those of multi-token prediction as well; the others are the same without them.
    """
    generator = torch.Generator().manual_seed(seed)
    weights: dict[str, Tensor] = {}
    named = sorted(chain(attention_tensors(config), ngram_tables(config), expert_tensors(config)))
    for name, shape in chain(named, sorted(draft_tensors(config)) if drafts else ()):
        values = torch.randn(shape, generator=generator)
        if name.endswith("e_score_correction_bias"):
            weights[name] = values * bias_scale
        elif name.endswith("classifier.weight"):
            weights[name] = values * 0.2
        elif len(shape) == 1:
            weights[name] = (1 + values * 0.1).to(dtype)
        else:
            weights[name] = (values * shape[1] ** -0.5).to(dtype)
    return weights


def make_checkpoint(
    path: Path,
    preset: dict[str, Any] = PLAIN,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    shards: int = 2,
    bias_scale: float = 0.02,
    drafts: bool = False,
    **overrides: Any,
) -> Path:
    """Writes config, sharded weights with their index, tokenizer and chat template; returns `path`."""
    raw = preset | overrides | {"torch_dtype": str(dtype).removeprefix("torch.")}
    if "num_layers" in overrides:
        raw["num_hidden_layers"] = 2 * raw["num_layers"]
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(raw, indent=2))
    weights = random_weights(ModelConfig.from_dict(raw), seed, dtype, bias_scale, drafts=drafts)
    names = sorted(weights)
    weight_map = {name: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(names)}
    for shard in sorted(set(weight_map.values())):
        save_file({name: weights[name] for name in names if weight_map[name] == shard}, path / shard)
    index = {"metadata": {"total_size": sum(w.nbytes for w in weights.values())}, "weight_map": weight_map}
    (path / INDEX).write_text(json.dumps(index))
    write_tokenizer(path, raw["vocab_size"])
    return path


def write_tokenizer(path: Path, vocabulary: int) -> None:
    """Writes a tokenizer with LongCat's special tokens, a chat template and generation defaults.

    About 310 ids are trained; the rest are made-up words, so that any id a random model samples has a text.
    """
    tokenizer = train_tokenizer()
    tokenizer.add_tokens([f"w{i}" for i in range(tokenizer.get_vocab_size(), vocabulary)])
    tokenizer.save(str(path / "tokenizer.json"))
    names = {"bos_token": "<longcat_s>", "eos_token": "</longcat_s>", "pad_token": "<longcat_pad>"}
    (path / "tokenizer_config.json").write_text(json.dumps(names))
    (path / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}))
    (path / "chat_template.jinja").write_text(TEMPLATE)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a random LongCat-Flash checkpoint.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="plain")
    parser.add_argument("--config", type=Path, help="a config.json to take instead of a preset")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--drafts", action="store_true", help="with the tensors of multi-token prediction")
    args = parser.parse_args()
    preset = json.loads(args.config.read_text()) if args.config else PRESETS[args.preset]
    make_checkpoint(args.out, preset, seed=args.seed, dtype=getattr(torch, args.dtype), drafts=args.drafts)
    print(args.out)


if __name__ == "__main__":
    main()
