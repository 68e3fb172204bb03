"""Published measurements as the planner's questions: what was run, what came out, and what this model says of it.

Nothing is fitted here. `use` says what a row served for: `theory` (published arithmetic: peaks, no factors),
`fitted` (a factor of a device or a link, or a constant of the model, was chosen with it in view), `tested`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from services.planner import families as known
from services.planner.engine_rows import EFA, better, engine_rows
from services.planner.layer import Pools
from services.planner.memory import on_device
from services.planner.prefill import prefill
from services.planner.report_rows import REPORT, table_6_rows, table_7_rows
from services.planner.rows import Predict, Profiles, Row, Use
from services.planner.serving import Load, Serving
from services.planner.shape import Shape
from services.planner.step import Step, colocated_step, separate_step

AFD_PLUGIN = "vLLM AFD plug-in, 2026-07-23, forced balance"
FAST_AFD = "FastAFD, Hao AI Lab, 2026-07-06"


def _deepseek_rows() -> list[Row]:
    def ask(sequences: float, context: float, devices: int) -> Predict:
        serving = Serving(overlap="tbo")
        load = Load(sequences, context)
        return lambda p: (
            colocated_step(
                known.DEEPSEEK_V3, load, serving, p.devices["h800"], p.links["infiniband"], devices
            ).device_tokens_s
        )

    rows = (
        ("profile, 116 sequences per GPU", 2324.0, 116, 4096, 128),
        ("blog, 88 sequences per GPU", 1850.0, 88, 4989, 144),
    )
    return [
        Row(f"DeepSeek-V3 {name}", f"{REPORT}, Table 6", "tokens/s per GPU", value, "colocated", "tested", ask(b, c, n))
        for name, value, b, c, n in rows
    ]


def _longcat_2_rows() -> list[Row]:
    def ask(streams: int) -> Predict:
        serving = Serving(tp=16, zeros_stay=False)
        load = Load(streams, 64 + 512)
        return lambda p: (
            1e3 * colocated_step(known.LONGCAT_2, load, serving, p.devices["h200"], p.links["efa"], 16).tpot_s
        )

    measured: tuple[tuple[int, float, Use], ...] = ((1, 46.5, "fitted"), (32, 55.4, "tested"))
    return [
        Row(f"LongCat-2.0, 16 H200, DeepEP over EFA, {n} streams", EFA, "ms TPOT", ms, "colocated", use, ask(n))
        for n, ms, use in measured
    ]


def _cloudmatrix_rows() -> list[Row]:
    def ask(sequences: float) -> Predict:
        serving = Serving(drafts=1, acceptance=0.7)
        load = Load(sequences, 4096)
        return lambda p: 2 * better(p, ("910c", "ub"), known.DEEPSEEK_V3, load, serving, 320).device_tokens_s

    source = "CloudMatrix384, arXiv 2506.12708"
    rows = (("96 sequences per NPU", 1943.0, 48), ("8 sequences per NPU", 538.0, 4))
    return [
        Row(f"DeepSeek-R1 on 910C, EP320, {name}", source, "tokens/s per NPU", value, "colocated", "tested", ask(b))
        for name, value, b in rows
    ]


def separate_of(
    p: Profiles, shape: Shape, pools: tuple[int, int], names: tuple[str, str], load: Load, s: Serving
) -> Step:
    """A step of attention and expert devices of one kind, over one link."""
    device = p.devices[names[0]]
    return separate_step(shape, load, s, Pools(
        attention=pools[0], experts=pools[1], attention_device=device, expert_device=device, link=p.links[names[1]]
    ))  # fmt: skip


def _ascend_rows() -> list[Row]:
    def ask(context: int) -> Predict:
        return lambda p: ascend_together(p, context)

    rows: tuple[tuple[int, float, Use], ...] = ((16, 232.6, "fitted"), (32, 168.2, "fitted"))
    unit = "tokens/s per die"
    return [
        Row(f"DeepSeek-V3.2 on 910C, EP64, {k}K", AFD_PLUGIN, unit, value, "colocated", use, ask(1024 * k))
        for k, value, use in rows
    ]


def _separate_rows() -> list[Row]:
    afd = Serving(deduplicated=True, summed=True, micro_batches=3, groups=1, kv_dtype="fp8")

    def step_3(p: Profiles) -> float:
        step = separate_of(p, known.STEP_3, (16, 16), ("h800", "infiniband"), Load(404, 4096), afd)
        return step.device_tokens_s / 2

    def xdeepserve(p: Profiles) -> float:
        serving = replace(
            afd, kv_dtype="bf16", drafts=1, acceptance=0.7, summed=False, deduplicated=False, micro_batches=2
        )
        step = separate_of(p, known.DEEPSEEK_V3, (480, 288), ("910c", "ub"), Load(96, 4096), serving)
        return step.device_tokens_s * 480 / 768 * 2

    return [
        Row("Step-3, 16 attention and 16 expert GPUs, 404 sequences per attention GPU", "arXiv 2507.19427",
            "tokens/s per GPU", 4039.0, "separate", "tested", step_3),
        Row("DeepSeek on 910C, 480 attention and 288 expert dies, 96 sequences per attention die",
            "xDeepServe, arXiv 2508.02520", "tokens/s per chip", 2400.0, "separate", "fitted", xdeepserve),
    ]  # fmt: skip


def ascend_gain(p: Profiles, context: int, attention_dies: int) -> float:
    """What separate pools bring on 910C per die, in %, with as many sequences as fit each die's memory.

    The publication forces four experts onto each die that has experts, so that 16 of them stand for 64: so does this.
    """
    shape, device = known.DEEPSEEK_V32, p.devices["910c"]
    serving = Serving()
    base = ascend_together(p, context)
    apart = replace(serving, micro_batches=2, groups=1)
    alone = on_device(shape, apart, device.memory_bytes, 0).cached_tokens // (context + 512)
    step = separate_of(p, shape, (4 * attention_dies, 64), ("910c", "ub"), Load(alone, context), apart)
    return 100 * (step.device_tokens_s * attention_dies / (attention_dies + 16) / base - 1)


def nvl72_together(p: Profiles) -> float:
    """Tokens/s per GPU of 72 colocated GPUs at 8,192 tokens, with as many sequences as fit."""
    shape, device = known.QWEN3_235B, p.devices["gb200"]
    serving = Serving()
    room = on_device(shape, serving, device.memory_bytes, shape.experts / 72).cached_tokens // 8192
    return better(p, ("gb200", "nvl72"), shape, Load(room, 8192), serving, 72).device_tokens_s


def nvl72_gain(p: Profiles) -> float:
    """Peak tokens/s per GPU of 63 attention and 9 expert GPUs over 72 colocated ones, as a factor."""
    shape, device = known.QWEN3_235B, p.devices["gb200"]
    apart = Serving(micro_batches=3, groups=1)
    alone = on_device(shape, apart, device.memory_bytes, 0).cached_tokens // 8192
    step = separate_of(p, shape, (63, 9), ("gb200", "nvl72"), Load(alone, 8192), apart)
    return step.device_tokens_s * 63 / 72 / nvl72_together(p)


def megascale_gain(p: Profiles) -> float:
    """Tokens/s per GPU within 150 ms a token of the best split of A100 over 8-way tensor parallelism, as a factor."""
    shape, device, context = known.SCALED_MOE, p.devices["a100"], 571 + 80
    bf16 = Serving(dense_dtype="bf16", expert_dtype="bf16", out_dtype="bf16")
    wire, nvlink = p.links["infiniband"], p.links["nvlink"]

    def best(ask: Callable[[float], Step], most: int, share: float) -> float:
        steps = [ask(b) for b in range(8, max(9, most), 8)]
        return max((s.device_tokens_s * share for s in steps if s.tpot_s <= 0.15), default=0.0)

    # Half of the layers on each of two nodes, and a batch in each: as many sequences as one node with all layers
    # would hold.
    whole = replace(bf16, tp=8)
    room = on_device(shape, whole, device.memory_bytes, shape.experts / 16).cached_tokens // context
    together = best(lambda b: colocated_step(shape, Load(b, context), whole, device, nvlink, 8), room, 1 / 8)
    apart = replace(bf16, micro_batches=3, groups=1)
    alone = on_device(shape, apart, device.memory_bytes, 0).cached_tokens // context
    splits = [(a, e) for e in (8, 16) for a in (2, 4, 8, 16)]

    def split(a: int, e: int) -> float:
        pools = Pools(attention=a, experts=e, attention_device=device, expert_device=device, link=wire)
        return best(lambda b: separate_step(shape, Load(b, context), apart, pools), alone, a / (a + e))

    return max(split(a, e) for a, e in splits) / together


def ascend_together(p: Profiles, context: int) -> float:
    """Tokens/s per die of 64 dies that have everything, with as many sequences as fit."""
    shape, device = known.DEEPSEEK_V32, p.devices["910c"]
    together = on_device(shape, Serving(), device.memory_bytes, 4).cached_tokens // (context + 512)
    return better(p, ("910c", "ub"), shape, Load(together, context), Serving(), 64).device_tokens_s


def _gain_rows() -> list[Row]:
    def ascend(context: int, dies: int) -> Predict:
        return lambda p: ascend_gain(p, context, dies)

    gains: tuple[tuple[int, int, float, Use], ...] = (
        (16, 48, -5.3, "fitted"),
        (16, 64, 11.3, "fitted"),
        (32, 48, -10.0, "fitted"),
        (32, 64, 9.0, "fitted"),
    )
    rows = [
        Row(f"DeepSeek-V3.2 on 910C, {k}K, {dies}A16F over EP64", AFD_PLUGIN, "% per die", value, "gain of separating",
            use, ascend(k * 1024, dies), True)
        for k, dies, value, use in gains
    ]  # fmt: skip
    rows.append(Row("Qwen3-235B on GB200 NVL72, 8K, colocated", FAST_AFD, "tokens/s per GPU", 1781.0, "colocated",
                    "tested", nvl72_together))  # fmt: skip
    rows.append(Row("Qwen3-235B on GB200 NVL72, 8K, 63A9F over colocated", FAST_AFD, "times",
                    2518 / 1781, "gain of separating", "tested", nvl72_gain))  # fmt: skip
    rows.append(Row("Scaled-MoE 317B on A100, separate over TP8, 150 ms", "MegaScale-Infer, arXiv 2504.02263", "times",
                    1.9, "gain of separating", "tested", megascale_gain))  # fmt: skip
    return rows


def _prefill_rows() -> list[Row]:
    def cloudmatrix(p: Profiles) -> float:
        plain = Serving(overlap="tbo")
        return 2 * prefill(known.DEEPSEEK_V3, 4096, plain, p.devices["910c"], p.links["ub"], 32).tokens_s

    return [
        Row("DeepSeek-R1 on 910C, prompts of 4,096 tokens", "CloudMatrix384, arXiv 2506.12708", "tokens/s per NPU",
            6688.0, "prefill", "fitted", cloudmatrix),
    ]  # fmt: skip


def rows() -> list[Row]:
    """All of them, in the order of docs/planner.md."""
    return [
        *table_7_rows(), *table_6_rows(), *_deepseek_rows(), *_longcat_2_rows(), *_cloudmatrix_rows(),
        *_ascend_rows(), *_separate_rows(), *_gain_rows(), *_prefill_rows(), *engine_rows(),
    ]  # fmt: skip
