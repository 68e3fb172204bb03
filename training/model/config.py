"""Sizes of the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ModelConfig:
    """The sizes of the model; field names are those of config.json."""

    vocab_size: int = 1536
    hidden_size: int = 128
    num_layers: int = 3
    num_attention_heads: int = 4
    q_lora_rank: int = 64
    kv_lora_rank: int = 32
    qk_nope_head_dim: int = 16
    qk_rope_head_dim: int = 16
    v_head_dim: int = 32
    ffn_hidden_size: int = 256
    expert_ffn_hidden_size: int = 64
    n_routed_experts: int = 16
    zero_expert_num: int = 8
    moe_topk: int = 6
    routed_scaling_factor: float = 3.0
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    max_position_embeddings: int = 4096

    @property
    def num_gates(self) -> int:
        return self.n_routed_experts + self.zero_expert_num

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> ModelConfig:
        """Reads a parsed config.json; ignores other fields."""
        return cls(**{name: fields[name] for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class Architecture:
    """What a variant for an experiment leaves out. Only the default is exported and served."""

    shortcut: bool = True  # the MoE reads what the first MLP reads; else what the second one reads, and hides nothing
    attention_alignment: bool = True  # α_q and α_kv (report, Eq. 7); else 1
    expert_alignment: bool = True  # γ (report, Eq. 8): `routed_scaling_factor`; else 1
    # All matrices begin with the variance 1 / hidden_size, as the report assumes; else each with 1 / its inputs.
    one_variance: bool = False


SERVED = Architecture()
