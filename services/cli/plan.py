"""`caracal plan`: computes from config.json how many workers a model needs; nothing is loaded."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from services.checkpoint.config import ModelConfig
from services.checkpoint.config_file import read_config
from services.checkpoint.errors import CheckpointError
from services.checkpoint.ngram import NgramConfig
from services.checkpoint.safetensors import tensor_names
from services.checkpoint.tensors import DRAFT_LAYER, draft_tensors, ngram_tables
from services.cli.fitting_table import folded
from services.cli.planning.errors import BadPlan as BadPlan
from services.local.model_folder import download_hint

GB = 1e9
WEIGHT_BYTES = {"fp32": 4, "bf16": 2, "fp8": 1}  # without scales of fp8: 0.02 % more on GPUs, 0.8 % on CPUs
WIDE_BYTES = {"fp32": 4, "bf16": 2, "fp8": 2}  # of a value of the KV cache, of n-gram tables and of the draft

FLASH_CHAT = ModelConfig(
    num_layers=28,
    hidden_size=6144,
    num_attention_heads=64,
    q_lora_rank=1536,
    kv_lora_rank=512,
    qk_nope_head_dim=128,
    qk_rope_head_dim=64,
    v_head_dim=128,
    ffn_hidden_size=12288,
    expert_ffn_hidden_size=2048,
    n_routed_experts=512,
    zero_expert_num=256,
    moe_topk=12,
    routed_scaling_factor=6.0,
    max_position_embeddings=131072,
    vocab_size=131072,
)


FLASH_LITE = ModelConfig(
    num_layers=14,
    hidden_size=3072,
    num_attention_heads=32,
    q_lora_rank=1536,
    kv_lora_rank=512,
    qk_nope_head_dim=128,
    qk_rope_head_dim=64,
    v_head_dim=128,
    ffn_hidden_size=6144,
    expert_ffn_hidden_size=1024,
    n_routed_experts=256,
    zero_expert_num=128,
    moe_topk=12,
    routed_scaling_factor=6.0,
    max_position_embeddings=327680,
    vocab_size=131072,
    ngram=NgramConfig(neighbours=4, splits=4, base_rows=78 * 131072, vocab_size=131072, width=256, boundary_ids=(2,)),
)
KNOWN = {"flash-chat": ("LongCat-Flash-Chat", FLASH_CHAT), "flash-lite": ("LongCat-Flash-Lite", FLASH_LITE)}


@dataclass(frozen=True, slots=True)
class Sizes:
    """Counts of a model's parameters, by the role that loads them, and of its KV cache's values."""

    name: str
    experts: int  # over all layers
    expert_params: int  # per expert
    attention_params: int  # everything but the experts, the n-gram tables and the draft
    draft_params: int  # of multi-token prediction; 0 without its tensors
    table_values: int  # of the n-gram tables, which a machine has once
    cache_values: int  # per token, over all layers
    context: int  # tokens

    @classmethod
    def of(cls, name: str, c: ModelConfig, drafts: bool = False) -> Sizes:
        """Counts two MLAs, two dense MLPs and one gate per layer, the embedding and, if it is not tied, lm_head.

        With `drafts` also the tensors and the cache of multi-token prediction.
        """
        d, heads = c.hidden_size, c.num_attention_heads
        mla = (
            (d + 1) * c.q_lora_rank
            + c.q_lora_rank * heads * (c.qk_nope_head_dim + c.qk_rope_head_dim)
            + d * c.latent
            + c.kv_lora_rank
            + c.kv_lora_rank * heads * (c.qk_nope_head_dim + c.v_head_dim)
            + heads * c.v_head_dim * d
        )
        layer = 2 * mla + 2 * 3 * d * c.ffn_hidden_size + c.num_gate_outputs * (d + 1) + 4 * d
        heads_and_embeddings = (1 if c.tie_word_embeddings else 2) * c.vocab_size * d
        projections = d * d if c.ngram else 0
        return cls(
            name=name,
            experts=c.num_layers * c.n_routed_experts,
            expert_params=3 * d * c.expert_ffn_hidden_size,
            attention_params=c.num_layers * layer + heads_and_embeddings + projections + d,
            draft_params=sum(math.prod(shape) for _, shape in draft_tensors(c)) if drafts else 0,
            table_values=sum(rows * width for _, (rows, width) in ngram_tables(c)),
            cache_values=c.latent_caches(drafts) * c.latent,
            context=c.max_position_embeddings,
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """The workers that a model needs with weights of one dtype."""

    weights: str
    expert_bytes: int
    experts_per_worker: int
    expert_workers: int
    attention_bytes: int
    token_bytes: int  # in the KV cache, per token
    cached_tokens: int  # per attention worker; negative: its weights do not fit


def make_plan(sizes: Sizes, weights: str, expert_gb: float, attention_gb: float) -> Plan:
    """Plans for weights of one dtype, a key of WEIGHT_BYTES. Raises BadPlan when one expert does not fit a worker."""
    one = sizes.expert_params * WEIGHT_BYTES[weights]
    per_worker = min(sizes.experts, int(expert_gb * GB // one))
    if per_worker < 1:
        raise BadPlan(f"one expert in {weights} takes {one / GB:.3g} GB, a worker has {expert_gb:g}")
    attention = sizes.attention_params * WEIGHT_BYTES[weights] + sizes.draft_params * WIDE_BYTES[weights]
    token = sizes.cache_values * WIDE_BYTES[weights]
    return Plan(
        weights=weights,
        expert_bytes=one * sizes.experts,
        experts_per_worker=per_worker,
        expert_workers=math.ceil(sizes.experts / per_worker),
        attention_bytes=attention,
        token_bytes=token,
        cached_tokens=math.floor((attention_gb * GB - attention) / token),
    )


def load_sizes(model: str) -> Sizes:
    """Counts for a key of KNOWN, or for a checkpoint given as a directory or config.json. Raises BadPlan."""
    if model in KNOWN:
        return Sizes.of(*KNOWN[model], drafts=True)
    config, drafts, name = config_of(model)
    return Sizes.of(name, config, drafts)


def config_of(model: str) -> tuple[ModelConfig, bool, str]:
    """The config of a checkpoint, whether it has tensors for drafts, and its name. Raises BadPlan."""
    path = Path(model)
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        raise BadPlan(f"{path}: no such file{download_hint(path) or ' (a model is read from disk, never downloaded)'}")
    try:
        drafts = any(name.startswith(DRAFT_LAYER) for name in tensor_names(path.parent))
        return read_config(path)[0], drafts, path.resolve().parent.name
    except CheckpointError as error:
        raise BadPlan(str(error)) from None


def show_json(sizes: Sizes, expert_gb: float, attention_gb: float) -> None:
    """Prints the sizes and the plan for every dtype of weights as JSON. Raises BadPlan."""
    plans = {weights: asdict(make_plan(sizes, weights, expert_gb, attention_gb)) for weights in WEIGHT_BYTES}
    print(json.dumps({"sizes": asdict(sizes), "plans": plans}))


def show(sizes: Sizes, expert_gb: float, attention_gb: float) -> None:
    """Prints the plan for every dtype of weights. Raises BadPlan."""
    plans = [make_plan(sizes, weights, expert_gb, attention_gb) for weights in WEIGHT_BYTES]
    table = Table(*folded("", *(plan.weights for plan in plans)), title=f"{sizes.name}: {sizes.experts} experts")
    table.add_row("all experts", *(f"{plan.expert_bytes / GB:,.4g} GB" for plan in plans))
    table.add_row(f"experts on a worker of {expert_gb:g} GB", *(f"{plan.experts_per_worker:,}" for plan in plans))
    table.add_row("expert workers, at least", *(str(plan.expert_workers) for plan in plans))
    table.add_row("weights of an attention worker", *(f"{plan.attention_bytes / GB:,.4g} GB" for plan in plans))
    if sizes.table_values:
        tables = [f"{sizes.table_values * WIDE_BYTES[plan.weights] / GB:,.4g} GB" for plan in plans]
        table.add_row("n-gram tables, once per machine", *tables)
    context = [f"{plan.token_bytes * sizes.context / GB:,.4g} GB" for plan in plans]
    table.add_row(f"KV cache of one context of {sizes.context:,} tokens", *context)
    left = [f"{p.cached_tokens:,}" if p.cached_tokens > 0 else "its weights do not fit" for p in plans]
    table.add_row(f"tokens cached by one of {attention_gb:g} GB", *left)
    Console().print(table)
