"""The shape of a model by name, or of a checkpoint on disk."""

from __future__ import annotations

import difflib
from pathlib import Path

from services.checkpoint.config import ModelConfig
from services.checkpoint.sparse import BLOCK
from services.cli.plan import KNOWN, Sizes, config_of
from services.cli.planning.errors import BadPlan
from services.planner.families import FAMILIES, OTHERS
from services.planner.shape import Shape, mla


def shape_of(config: ModelConfig, sizes: Sizes) -> Shape:
    """The planner's view of a checkpoint, with every tensor counted."""
    streaming = config.streaming
    return Shape(
        name=sizes.name,
        layers=config.num_layers,
        hidden=config.hidden_size,
        vocabulary=config.vocab_size,
        attention=mla(
            config.hidden_size,
            config.num_attention_heads,
            q_rank=config.q_lora_rank,
            kv_rank=config.kv_lora_rank,
            nope=config.qk_nope_head_dim,
            rope=config.qk_rope_head_dim,
            value=config.v_head_dim,
            windowed=sum(streaming.sparse) / len(streaming.sparse) if streaming else 0.0,
            window=BLOCK * (streaming.sink_blocks + streaming.recent_blocks) if streaming else 0,
        ),
        experts=config.n_routed_experts,
        zero=config.zero_expert_num,
        top_k=config.moe_topk,
        expert_ffn=config.expert_ffn_hidden_size,
        sublayers=2,
        dense_ffn=config.ffn_hidden_size,
        shortcut=True,
        draft_params=sizes.draft_params,
        tied=config.tie_word_embeddings,
        table_values=sizes.table_values,
        longest=config.max_position_embeddings,
        counted_params=sizes.attention_params,
    )


def find_shape(model: str) -> Shape:
    """The shape of a family by name, of another published model, of a checkpoint or its config.json. Raises BadPlan."""
    if model in KNOWN:
        name, config = KNOWN[model]
        return shape_of(config, Sizes.of(name, config, drafts=True))
    if known := {**FAMILIES, **OTHERS}.get(model):
        return known
    if not Path(model).exists() and "/" not in model and not model.startswith("."):
        names = [*KNOWN, *FAMILIES, *OTHERS]
        near = difflib.get_close_matches(model, names, 1, 0.0)[0]
        raise BadPlan(
            f"{model}: no such file, and no model of that name; the nearest is {near!r} "
            f"({', '.join(dict.fromkeys(names))})"
        )
    config, drafts, name = config_of(model)
    return shape_of(config, Sizes.of(name, config, drafts))


def is_served(model: str) -> bool:
    """Whether it is a model that Caracal serves: one of LongCat's family with a config that it reads."""
    return model in KNOWN or model not in {**FAMILIES, **OTHERS}
