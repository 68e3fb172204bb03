"""The sizes to measure: LongCat-Flash's real widths, and tiny ones for a dry run of every path.

Legend: N outputs, K inputs of a dense product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

LONGCAT: dict[str, Any] = {
    "model_type": "longcat_flash",
    "vocab_size": 1024,  # instead of 131072: the head is not part of a layer
    "hidden_size": 6144,
    "num_attention_heads": 64,
    "ffn_hidden_size": 12288,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "moe_topk": 12,
    "n_routed_experts": 512,
    "zero_expert_num": 256,
    "zero_expert_type": "identity",
    "expert_ffn_hidden_size": 2048,
    "routed_scaling_factor": 6.0,
    "rope_theta": 1e7,
    "torch_dtype": "bfloat16",
}


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Everything that differs between a measurement and a dry run."""

    hidden: int
    inner: int
    experts: int
    rows_per_expert: tuple[int, ...]
    heads: int
    latent: int
    rope: int
    page_size: int
    decode: tuple[tuple[int, int], ...]  # (context, sequences)
    copy_bytes: int
    square: int  # rows and columns of the matrices of the ceilings' products
    linear: tuple[tuple[int, int], ...]  # (N, K)
    linear_rows: tuple[int, ...]
    determinism_rows: tuple[int, ...]  # per expert
    determinism_decode: tuple[tuple[int, int], ...]
    tune_rows: tuple[int, ...]
    slice_config: dict[str, Any]
    slice_layers: int  # maximum
    slice_rows: tuple[int, ...]
    slice_context: int
    slice_steps: int


REAL = Sizes(
    hidden=6144,
    inner=2048,
    experts=64,
    rows_per_expert=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096),
    heads=64,
    latent=512,
    rope=64,
    page_size=64,
    decode=tuple((context << 10, rows) for rows in (64, 8, 1) for context in (1, 4, 16, 64, 128)),
    copy_bytes=4 << 30,
    square=8192,
    # q_b, o_proj, the dense gate (and up), the dense down
    linear=((12288, 1536), (6144, 8192), (12288, 6144), (6144, 12288)),
    linear_rows=(1, 16, 64, 256, 1024),
    determinism_rows=(1, 64, 256, 2048),
    determinism_decode=((1024, 64), (16384, 64), (1024, 1), (16384, 1), (131072, 1)),
    tune_rows=(1, 16, 64, 128, 256, 1024),
    slice_config=LONGCAT,
    slice_layers=28,
    slice_rows=(1, 16, 64),
    slice_context=4096,
    slice_steps=40,
)
TINY = Sizes(
    hidden=128,
    inner=64,
    experts=2,
    rows_per_expert=(1, 17),
    heads=2,
    latent=16,
    rope=16,
    page_size=16,
    decode=((40, 2), (1040, 1)),
    copy_bytes=1 << 10,
    square=32,
    linear=((64, 128),),
    linear_rows=(2, 17),
    determinism_rows=(3,),
    determinism_decode=((300, 1),),
    tune_rows=(1, 65),
    slice_config=LONGCAT
    | {
        "vocab_size": 32,
        "hidden_size": 64,
        "num_attention_heads": 2,
        "ffn_hidden_size": 64,
        "q_lora_rank": 32,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 16,
        "v_head_dim": 16,
        "moe_topk": 2,
        "n_routed_experts": 3,
        "zero_expert_num": 1,
        "expert_ffn_hidden_size": 32,
    },
    slice_layers=1,
    slice_rows=(2,),
    slice_context=20,
    slice_steps=1,
)
