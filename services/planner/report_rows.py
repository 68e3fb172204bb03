"""The LongCat-Flash report's Tables 6 (measured) and 7 (in theory)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from services.planner import families as known
from services.planner.device import Device, Factors, Link
from services.planner.layer import Layer, colocated
from services.planner.rows import Predict, Profiles, Row
from services.planner.serving import Load, Serving
from services.planner.shape import Shape
from services.planner.step import colocated_step

DECODE = Serving(drafts=1, overlap="sbo", mlp_tp=4)
# Dtype of attention, tokens of context, sequences per GPU, tokens/s of a user.
TABLE_6: tuple[tuple[str, int, int, float], ...] = (
    ("bf16", 5000, 108, 35.0),
    ("bf16", 5000, 32, 68.9),
    ("bf16", 5000, 8, 100.5),
    ("fp8", 5000, 160, 26.4),
    ("fp8", 8192, 96, 33.8),
)
REPORT = "LongCat-Flash report, arXiv 2509.01322"
# Table 7: model, dtype of its projections, TPOT in ms, and microseconds of each part of a layer.
TABLE_7 = (
    (known.DEEPSEEK_V3, "fp8", 30.0, {"attention": 471.0, "dispatch": 275.0, "experts": 77.0, "combine": 551.0}),
    (known.QWEN3_235B, "fp8", 26.2, {"attention": 314.0, "dispatch": 157.0, "experts": 29.0, "combine": 315.0}),
    (known.FLASH_CHAT, "bf16", 16.0, {"attention": 264.0, "dispatch": 236.0, "experts": 60.0, "combine": 472.0}),
)


def table_6(device: Device, link: Link, kv_dtype: str, context: float, sequences: float) -> float:
    """Tokens per second of one user, as the report's 128 H800 serve so many sequences per GPU."""
    serving = replace(DECODE, kv_dtype=kv_dtype)
    return colocated_step(known.FLASH_CHAT, Load(sequences, context), serving, device, link, 128).user_tokens_s


def table_6_rows() -> list[Row]:
    def ask(kv: str, context: float, sequences: float) -> Predict:
        return lambda p: table_6(p.devices["h800"], p.links["infiniband"], kv, context, sequences)

    return [
        Row(
            f"LongCat-Flash, {kv} attention, {context} tokens, {sequences} sequences per GPU",
            f"{REPORT}, Table 6",
            "tokens/s per user",
            users,
            "colocated",
            "fitted",  # overlap loss and kernels' starts were set with all of them in view
            ask(kv, context, sequences),
        )
        for kv, context, sequences, users in TABLE_6
    ]


def table_7_rows() -> list[Row]:
    """TPOT in theory, and the parts of a layer that it is made of."""
    rows = []
    for shape, dtype, tpot, parts in TABLE_7:
        asked = [(f"{shape.name}, TPOT in theory", "ms", tpot, _asked(shape, dtype, _tpot_ms))]
        for part, us in parts.items():
            asked.append((f"{shape.name}, {part} of a layer in theory", "µs", us, _asked(shape, dtype, _part_us(part))))
        rows += [
            Row(name, f"{REPORT}, Table 7", unit, value, "theory", "theory", ask) for name, unit, value, ask in asked
        ]
    return rows


def _asked(shape: Shape, dtype: str, of: Callable[[Shape, Layer], float]) -> Predict:
    """Something of a layer at 96 sequences of 5,000 tokens on each of 128 GPUs, with peaks and no factor."""

    def predict(p: Profiles) -> float:
        bare, wire = replace(p.devices["h800"], factors=Factors()), replace(p.links["infiniband"], latency_s=0.0)
        serving = Serving(dense_dtype=dtype, drafts=1, overlap="sbo" if shape.shortcut else "tbo")
        return of(shape, colocated(shape, Load(96, 5000), serving, bare, wire, 128))

    return predict


def _part_us(part: str) -> Callable[[Shape, Layer], float]:
    return lambda _, layer: 1e6 * float(getattr(layer, part))


def _tpot_ms(shape: Shape, layer: Layer) -> float:
    """Attention, dispatch, experts, combine in a row (SBO), or attention beside the rest (TBO); 0.8 of drafts right."""
    trip = layer.dispatch + layer.experts + layer.combine
    one = layer.attention + trip if shape.shortcut else max(layer.attention, trip)
    return 1e3 * (shape.layers + shape.plain_layers) * one / Serving(drafts=1).tokens_per_step
