"""A DeepSeek-V2 model with the parameters, bytes and FLOPs per token of a LongCat-Flash one, in llama.cpp's format.

llama.cpp knows no LongCat-Flash. A layer of ours becomes two blocks of the twin: a dense one, and one with routed
experts and a shared expert as wide as the dense FFN. Its top-k is the number of FFN experts that a token of ours has
on average. Weights are random. `python -m bench.llama.twin CONFIG.json OUT.gguf`

Legend: D hidden, H heads, Q and C ranks of queries and latent, N and R key values without and with rope, V value
values, F dense FFN, X expert FFN, E experts.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from numpy.typing import NDArray

from services.checkpoint.config import ModelConfig

ARCHITECTURE = "deepseek2"
SOFTMAX_GATE = 1  # llama.cpp's expert_gating_func
BF16_FILE = 32  # llama.cpp's file type of mostly bf16
STD = 0.02


class NoTwin(ValueError):
    """A config whose work DeepSeek-V2 cannot copy."""


class Weight(NamedTuple):
    """A tensor of the file. `shape` is torch's order, which the file reverses."""

    name: str
    shape: tuple[int, ...]
    exact: bool  # fp32 instead of bf16


def active_experts(c: ModelConfig) -> int:
    """The FFN experts that a token has on average, to the nearest whole number; at least one."""
    return max(1, round(c.moe_topk * c.n_routed_experts / c.num_gate_outputs))


def metadata(c: ModelConfig) -> dict[str, int | float]:
    """What the file says of the model, without the architecture's prefix. Raises NoTwin."""
    if c.rope.yarn or c.ngram or c.streaming:
        raise NoTwin("a model with YaRN, n-gram embeddings or sparse attention has no twin")
    shared, rest = divmod(c.ffn_hidden_size, c.expert_ffn_hidden_size)
    if rest:
        raise NoTwin(
            f"ffn_hidden_size {c.ffn_hidden_size} is no multiple of expert_ffn_hidden_size {c.expert_ffn_hidden_size}: "
            "the twin's shared expert is that many experts wide"
        )
    return {
        "block_count": 2 * c.num_layers,
        "leading_dense_block_count": c.num_layers,
        "context_length": c.max_position_embeddings,
        "embedding_length": c.hidden_size,
        "feed_forward_length": c.ffn_hidden_size,
        "vocab_size": c.vocab_size,
        "attention.head_count": c.num_attention_heads,
        "attention.head_count_kv": 1,
        "attention.layer_norm_rms_epsilon": c.rms_norm_eps,
        "attention.q_lora_rank": c.q_lora_rank,
        "attention.kv_lora_rank": c.kv_lora_rank,
        "attention.key_length": c.latent,
        "attention.value_length": c.kv_lora_rank,
        "attention.key_length_mla": c.qk_nope_head_dim + c.qk_rope_head_dim,
        "attention.value_length_mla": c.v_head_dim,
        "rope.dimension_count": c.qk_rope_head_dim,
        "rope.freq_base": float(c.rope.theta),
        "expert_count": c.n_routed_experts,
        "expert_used_count": active_experts(c),
        "expert_group_count": 1,
        "expert_group_used_count": 1,
        "expert_gating_func": SOFTMAX_GATE,
        "expert_feed_forward_length": c.expert_ffn_hidden_size,
        "expert_shared_count": shared,
        "expert_weights_scale": float(c.routed_scaling_factor),
    }


def weights(c: ModelConfig) -> Iterator[Weight]:
    """Every tensor, in the order of the file."""
    D, F, X, E = c.hidden_size, c.ffn_hidden_size, c.expert_ffn_hidden_size, c.n_routed_experts
    yield Weight("output.weight", (c.vocab_size, D), exact=False)
    yield Weight("token_embd.weight", (c.vocab_size, D), exact=False)
    for block in range(2 * c.num_layers):
        prefix = f"blk.{block}."
        yield from _attention(c, prefix)
        yield Weight(f"{prefix}ffn_norm.weight", (D,), exact=True)
        if block < c.num_layers:
            yield from _ffn(prefix, "", (), F, D)
            continue
        yield Weight(f"{prefix}ffn_gate_inp.weight", (E, D), exact=True)
        yield from _ffn(prefix, "_exps", (E,), X, D)
        yield from _ffn(prefix, "_shexp", (), F, D)
    yield Weight("output_norm.weight", (D,), exact=True)


def write(c: ModelConfig, path: Path, seed: int = 0) -> None:
    """Writes the twin with random weights. Raises NoTwin."""
    generator = torch.Generator().manual_seed(seed)
    writer = GGUFWriter(path, ARCHITECTURE)
    writer.add_name(f"{ARCHITECTURE} twin")
    writer.add_file_type(BF16_FILE)
    writer.add_quantization_version(2)
    writer.add_tokenizer_model("none")  # it is given ids and asked for ids
    for key, value in metadata(c).items():
        add = writer.add_float32 if isinstance(value, float) else writer.add_uint32
        add(f"{ARCHITECTURE}.{key}", value)  # type: ignore[arg-type]  # each adder takes its own type
    for weight in weights(c):
        values, kind = _values(weight, generator)
        writer.add_tensor(weight.name, values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _attention(c: ModelConfig, prefix: str) -> Iterator[Weight]:
    D, H, Q, C = c.hidden_size, c.num_attention_heads, c.q_lora_rank, c.kv_lora_rank
    N, R, V = c.qk_nope_head_dim, c.qk_rope_head_dim, c.v_head_dim
    for name, shape in (
        ("attn_norm", (D,)),
        ("attn_q_a", (Q, D)),
        ("attn_q_a_norm", (Q,)),
        ("attn_q_b", (H * (N + R), Q)),
        ("attn_kv_a_mqa", (C + R, D)),
        ("attn_kv_a_norm", (C,)),
        ("attn_k_b", (H, C, N)),  # the absorbed form: both halves of kv_b by head
        ("attn_v_b", (H, V, C)),
        ("attn_output", (D, H * V)),
    ):
        yield Weight(f"{prefix}{name}.weight", shape, exact=len(shape) == 1)


def _ffn(prefix: str, suffix: str, experts: tuple[int, ...], inner: int, outer: int) -> Iterator[Weight]:
    for name, shape in (("gate", (inner, outer)), ("up", (inner, outer)), ("down", (outer, inner))):
        yield Weight(f"{prefix}ffn_{name}{suffix}.weight", (*experts, *shape), exact=False)


def _values(weight: Weight, generator: torch.Generator) -> tuple[NDArray[np.generic], GGMLQuantizationType]:
    """Random values of a tensor, norms all one, and their type; numpy knows no bf16, so it gets bytes."""
    if len(weight.shape) == 1:
        return torch.ones(weight.shape).numpy(), GGMLQuantizationType.F32
    std = 1.0 if weight.name.startswith("token_embd") else STD
    values = torch.randn(weight.shape, generator=generator) * std
    if weight.exact:
        return values.numpy(), GGMLQuantizationType.F32
    return values.bfloat16().view(torch.uint8).numpy(), GGMLQuantizationType.BF16


def main() -> None:
    config, out = Path(sys.argv[1]), Path(sys.argv[2])
    write(ModelConfig.from_dict(json.loads(config.read_text())), out)


if __name__ == "__main__":
    main()
