"""Models by name: LongCat's family, and those that published figures are about, as their config files have them."""

from __future__ import annotations

from services.planner.shape import Shape, gqa, mla

FLASH_CHAT = Shape(
    name="LongCat-Flash-Chat",
    layers=28,
    hidden=6144,
    vocabulary=131072,
    attention=mla(6144, 64),
    experts=512,
    zero=256,
    top_k=12,
    expert_ffn=2048,
    sublayers=2,
    dense_ffn=12288,
    shortcut=True,
    draft_params=392_600_000,
)
FLASH_LITE = Shape(
    name="LongCat-Flash-Lite",
    layers=14,
    hidden=3072,
    vocabulary=131072,
    attention=mla(3072, 32),
    experts=256,
    zero=128,
    top_k=12,
    expert_ffn=1024,
    sublayers=2,
    dense_ffn=6144,
    shortcut=True,
    draft_params=110_000_000,
    table_values=31_400_000_000,
    longest=327680,
)
LONGCAT_2 = Shape(
    name="LongCat-2.0",
    layers=38,
    hidden=8192,
    vocabulary=163840,
    attention=mla(8192, 64, kept=2048 + 16 + 1024, index_heads=32, index_width=128),
    experts=768,
    zero=128,
    top_k=12,
    expert_ffn=2048,
    sublayers=2,
    dense_ffn=12288,
    shortcut=True,
    table_values=135_000_000_000,
    longest=262144,
)
DEEPSEEK_V3 = Shape(
    name="DeepSeek-V3",
    layers=58,
    plain_layers=3,
    plain_ffn=18432,
    hidden=7168,
    vocabulary=129280,
    attention=mla(7168, 128),
    experts=256,
    top_k=8,
    expert_ffn=2048,
    shared_ffn=2048,
)
DEEPSEEK_V32 = Shape(
    name="DeepSeek-V3.2",
    layers=58,
    plain_layers=3,
    plain_ffn=18432,
    hidden=7168,
    vocabulary=129280,
    attention=mla(7168, 128, kept=2048, index_heads=64, index_width=128),
    experts=256,
    top_k=8,
    expert_ffn=2048,
    shared_ffn=2048,
)
QWEN3_235B = Shape(
    name="Qwen3-235B-A22B",
    layers=94,
    hidden=4096,
    vocabulary=151936,
    attention=gqa(4096, 64, 4, 128),
    experts=128,
    top_k=8,
    expert_ffn=1536,
)
STEP_3 = Shape(
    name="Step-3",
    layers=56,
    plain_layers=5,
    plain_ffn=18432,
    hidden=7168,
    vocabulary=128815,
    attention=gqa(7168, 64, 1, 256, q_rank=2048),
    experts=48,
    top_k=3,
    expert_ffn=5120,
    shared_ffn=5120,
)
SCALED_MOE = Shape(
    name="Scaled-MoE (MegaScale-Infer)",
    layers=48,
    hidden=8192,
    vocabulary=32000,
    attention=gqa(8192, 64, 8, 128),
    experts=32,
    top_k=4,
    expert_ffn=8192,
)
FAMILIES = {"flash-chat": FLASH_CHAT, "flash-lite": FLASH_LITE, "longcat-2.0": LONGCAT_2}
OTHERS = {
    "deepseek-v3": DEEPSEEK_V3,
    "deepseek-v3.2": DEEPSEEK_V32,
    "qwen3-235b": QWEN3_235B,
    "step-3": STEP_3,
    "scaled-moe": SCALED_MOE,
}
