"""The fields that a config.json may have besides those that are read. Any other is refused by name. Pure.

A field that nobody knows may change the model's answers, so nothing is ignored in silence; null counts as absent.
Source: docs/longcat-flash.md, config.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.checkpoint.errors import CheckpointError, bad_field, shown

# Read or compared elsewhere: by family.py, config.py, rope.py, sparse.py, ngram.py and fp8.py.
READ_ELSEWHERE = {
    "architectures",
    "model_type",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "quantization_config",
    "disable_quant_module",
    "streaming_sparse_attention",
    "ngram_vocab_size_ratio",
    "emb_neighbor_num",
    "emb_split_num",
    "dtype",
    "num_hidden_layers",
    "num_key_value_heads",
    "qk_head_dim",
}
# Any value: they describe training, the file's origin or another program's run time, and no engine computes with them.
HARMLESS = {
    "_name_or_path",
    "_attn_implementation",
    "_attn_implementation_autoset",
    "transformers_version",
    "auto_map",
    "initializer_range",
    "attention_dropout",
    "use_cache",
    "pad_token_id",
    "head_dim",
    "pretraining_tp",
    "ep_size",
    "params_dtype",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "router_aux_loss_coef",
    "return_dict",
    "problem_type",
    "id2label",
    "label2id",
    "task_specific_params",
    "chunk_size_feed_forward",
    "moe_impl",
    "moe_switch_token_num",
    "is_decoder",
    "unsloth_version",
    "unsloth_fixed",
    # Multi-token prediction drafts only; it never decides a token.
    "num_nextn_predict_layers",
    "mtp_num_layers",
    "mtp_replicate_modules",
    "mtp_disable_over_tokenizer",
}
# Only these values are what is computed. Compared with ==, so that 1 and true, 0 and false are the same.
ONLY: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_method": ("MLA",),
    "use_mla": (True,),
    "attention_bias": (False,),
    "router_bias": (False,),
    "nextn_use_scmoe": (False,),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "tie_encoder_decoder": (False,),
    "rope_interleave": (True,),
    "partial_rotary_factor": (1,),
    "router_dtype": ("float32",),
    "rounter_params_dtype": ("float32",),  # SGLang's spelling
    "scoring_func": ("softmax",),
    "topk_method": ("noaux_tc",),
    "n_group": (1,),
    "topk_group": (1,),
    "n_shared_experts": (0,),
    "first_k_dense_replace": (0,),
    "moe_layer_freq": (1,),
}
# Other names of a field, by which transformers' attribute map lets a file give it.
ALIASES = {
    "num_local_experts": "n_routed_experts",
    "num_experts_per_tok": "moe_topk",
    "intermediate_size": "ffn_hidden_size",
    "moe_intermediate_size": "expert_ffn_hidden_size",
}


def check_fields(raw: Mapping[str, Any], used: frozenset[str]) -> None:
    """Raises CheckpointError for a field that is not known, and for a value that is not what is computed.

    `used`: the fields that ModelConfig reads.
    """
    known = used | READ_ELSEWHERE | HARMLESS | ONLY.keys() | ALIASES.keys()
    unknown = sorted(name for name in raw if name not in known and raw[name] is not None)
    if unknown:
        names = ", ".join(name if name.isprintable() else ascii(name) for name in unknown)
        raise CheckpointError(f"config.json: {names}: not known here, and what it means for answers could be lost")
    for name, allowed in ONLY.items():
        value = raw.get(name)
        if value is not None and value not in allowed:
            raise bad_field(name, f"{shown(value)} is not served, only {allowed[0]!r}")
    for name, field in ALIASES.items():
        if None not in (raw.get(name), raw.get(field)) and raw[name] != raw[field]:
            raise bad_field(name, f"{shown(raw[name])} contradicts {field} {shown(raw[field])}")
