"""Names and shapes of a checkpoint's tensors, in Hugging Face's [out, in] order.

Source: docs/longcat-flash.md, tensor names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from services.checkpoint.config import ModelConfig

NamedShape = tuple[str, tuple[int, ...]]

EMBEDDING = "model.embed_tokens.weight"
OWN_HEAD = "lm_head.weight"
# There may be more of these than is read: of multi-token prediction, and buffers of old files that loaders compute.
UNREAD = re.compile(r"model\.mtp\.|.*\.rotary_emb\.inv_freq$")
# Multi-token prediction: it drafts tokens and decides none.
DRAFT, DRAFT_LAYER = "model.mtp.", "model.mtp.layers.0."


def head_name(c: ModelConfig) -> str:
    """The name of the output matrix: with tied heads the embedding's, whatever else the files hold."""
    return EMBEDDING if c.tie_word_embeddings else OWN_HEAD


def attention_tensors(c: ModelConfig) -> Iterator[NamedShape]:
    """Yields the name and shape of every tensor that an attention worker loads, but for the n-gram tables."""
    yield EMBEDDING, (c.vocab_size, c.hidden_size)
    for layer in range(c.num_layers):
        prefix = f"model.layers.{layer}."
        yield f"{prefix}mlp.router.classifier.weight", (c.num_gate_outputs, c.hidden_size)
        yield f"{prefix}mlp.router.e_score_correction_bias", (c.num_gate_outputs,)
        for i in (0, 1):
            yield f"{prefix}input_layernorm.{i}.weight", (c.hidden_size,)
            yield f"{prefix}post_attention_layernorm.{i}.weight", (c.hidden_size,)
            yield from _mla_tensors(c, f"{prefix}self_attn.{i}.")
            yield from _mlp_tensors(f"{prefix}mlps.{i}.", c.hidden_size, c.ffn_hidden_size)
    if c.ngram is not None:
        for table in range(c.ngram.tables):
            yield ngram_projection(table), (c.hidden_size, c.ngram.width)
    yield "model.norm.weight", (c.hidden_size,)
    if not c.tie_word_embeddings:
        yield OWN_HEAD, (c.vocab_size, c.hidden_size)


def draft_tensors(c: ModelConfig) -> Iterator[NamedShape]:
    """Yields the name and shape of every tensor that drafting reads; embedding and head are the model's own."""
    d = c.hidden_size
    for norm in ("enorm.m", "hnorm.m", "input_layernorm", "post_attention_layernorm"):
        yield f"{DRAFT_LAYER}{norm}.weight", (d,)
    yield f"{DRAFT_LAYER}eh_proj.weight", (d, 2 * d)
    yield from _mla_tensors(c, f"{DRAFT_LAYER}self_attn.")
    yield from _mlp_tensors(f"{DRAFT_LAYER}transformer_layer.mlp.", d, c.ffn_hidden_size)
    yield f"{DRAFT}norm.weight", (d,)


def ngram_tables(c: ModelConfig) -> Iterator[NamedShape]:
    """Yields the name and shape of every n-gram table, in the order of the tables; none for other models."""
    if c.ngram is not None:
        for table in range(c.ngram.tables):
            yield f"model.ngram_embeddings.embedders.{table}.weight", (c.ngram.rows(table), c.ngram.width)


def ngram_projection(table: int) -> str:
    """The name of the matrix that takes a table's rows to the hidden size."""
    return f"model.ngram_embeddings.post_projs.{table}.weight"


def expert_tensors(c: ModelConfig) -> Iterator[NamedShape]:
    """Yields the name and shape of every tensor of the FFN experts, as published: three matrices per expert."""
    for layer in range(c.num_layers):
        for expert in range(c.n_routed_experts):
            yield from _mlp_tensors(expert_prefix(layer, expert), c.hidden_size, c.expert_ffn_hidden_size)


def expert_prefix(layer: int, expert: int) -> str:
    """The common prefix of the names of an expert's three matrices."""
    return f"model.layers.{layer}.mlp.experts.{expert}."


def expert_matrices(layer: int, expert: int) -> list[str]:
    """The names of an expert's three matrices: gate, up, down."""
    return [f"{expert_prefix(layer, expert)}{part}_proj.weight" for part in ("gate", "up", "down")]


def fused_experts(c: ModelConfig, layer: int) -> tuple[NamedShape, NamedShape]:
    """A layer's experts in two tensors, as transformers 5 can write them; gate rows come first.

    The first may have unused entries behind the FFN experts, one for each zero expert: transformers allocates them.
    """
    prefix = f"model.layers.{layer}.mlp.experts."
    n, d, f = c.n_routed_experts, c.hidden_size, c.expert_ffn_hidden_size
    return (f"{prefix}gate_up_proj", (n, 2 * f, d)), (f"{prefix}down_proj", (n, d, f))


def _mla_tensors(c: ModelConfig, prefix: str) -> Iterator[NamedShape]:
    heads = c.num_attention_heads
    yield f"{prefix}q_a_proj.weight", (c.q_lora_rank, c.hidden_size)
    yield f"{prefix}q_a_layernorm.weight", (c.q_lora_rank,)
    yield f"{prefix}q_b_proj.weight", (heads * (c.qk_nope_head_dim + c.qk_rope_head_dim), c.q_lora_rank)
    yield f"{prefix}kv_a_proj_with_mqa.weight", (c.latent, c.hidden_size)
    yield f"{prefix}kv_a_layernorm.weight", (c.kv_lora_rank,)
    yield f"{prefix}kv_b_proj.weight", (heads * (c.qk_nope_head_dim + c.v_head_dim), c.kv_lora_rank)
    yield f"{prefix}o_proj.weight", (c.hidden_size, heads * c.v_head_dim)


def _mlp_tensors(prefix: str, hidden: int, inner: int) -> Iterator[NamedShape]:
    yield f"{prefix}gate_proj.weight", (inner, hidden)
    yield f"{prefix}up_proj.weight", (inner, hidden)
    yield f"{prefix}down_proj.weight", (hidden, inner)
