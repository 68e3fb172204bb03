"""What vLLM and SGLang publish of DeepSeek, colocated. Where no batch is published, memory's is taken."""

from __future__ import annotations

from dataclasses import replace

from services.planner import families as known
from services.planner.layer import colocated
from services.planner.memory import on_device
from services.planner.prefill import prefill
from services.planner.rows import Profiles, Row
from services.planner.serving import Load, Serving
from services.planner.shape import Shape
from services.planner.step import Step, colocated_step, outside_s

LMSYS, ANT = "lmsys.org, 2025-05-05", "lmsys.org, 2025-09-26"
EFA = "github.com/whn09/LongCat-2.0-SGLang-EFA, 2026-07-16"


def better(p: Profiles, names: tuple[str, str], shape: Shape, load: Load, serving: Serving, devices: int) -> Step:
    """A step with two batches that overlap, or with one where that is sooner: few rows are not worth halving."""
    device, link = p.devices[names[0]], p.links[names[1]]
    steps = [
        colocated_step(shape, load, replace(serving, overlap=way), device, link, devices) for way in ("tbo", "none")
    ]
    return min(steps, key=lambda step: step.seconds)


def filled(p: Profiles, names: tuple[str, str], serving: Serving, devices: int, context: int, longest: int) -> float:
    """Tokens/s per device of DeepSeek-V3 with as many sequences of `longest` tokens as memory holds."""
    shape, device = known.DEEPSEEK_V3, p.devices[names[0]]
    memory = on_device(shape, serving, device.memory_bytes, shape.experts / devices)
    load = Load(memory.cached_tokens // longest, context)
    return better(p, names, shape, load, serving, devices).device_tokens_s


def without_exchange_ms(p: Profiles, streams: int) -> float:
    """TPOT where each rank has every row and adds up its experts': one all-reduce of bf16 rows a layer, no latency."""
    shape, device, link = known.LONGCAT_2, p.devices["h200"], p.links["efa"]
    serving, load = Serving(tp=16), Load(streams, 64 + 512)
    layer = colocated(shape, load, serving, device, replace(link, latency_s=0.0), 16)
    rows = 2 * streams * shape.hidden * 2 * 15 / 16 / link.bytes_s
    return 1e3 * (shape.layers * (layer.busy + rows) + outside_s(shape, load, serving, device))


def engine_rows() -> list[Row]:
    plain, small = Serving(), Serving(kv_dtype="fp8")
    by_node = replace(plain, overlap="tbo", deduplicated=True, summed=True)  # a row goes once to each node
    narrow = Serving(expert_dtype="nvfp4", kv_dtype="fp8")

    def h20_prompts(p: Profiles) -> float:
        return 8 * prefill(known.DEEPSEEK_V3, 4096, plain, p.devices["h20"], p.links["nvlink"], 8).tokens_s

    def h100_prompts(p: Profiles) -> float:
        return 8 * prefill(known.DEEPSEEK_V3, 2000, by_node, p.devices["h100"], p.links["infiniband"], 4).tokens_s

    def gb200_prompts(p: Profiles) -> float:
        return prefill(known.DEEPSEEK_V3, 2000, narrow, p.devices["gb200"], p.links["nvl72"], 2).tokens_s

    gpu, node = "tokens/s per GPU", "tokens/s per node"
    wide, gb200 = "vLLM, wide EP, CoreWeave", "vLLM on GB200, 2K/2K"
    return [
        Row("LongCat-2.0, 16 H200, all-reduce over EFA, 1 streams", EFA, "ms TPOT", 24.1, "colocated", "tested",
            lambda p: without_exchange_ms(p, 1)),
        Row("LongCat-2.0, 16 H200, all-reduce over EFA, 32 streams", EFA, "ms TPOT", 38.2, "colocated", "tested",
            lambda p: without_exchange_ms(p, 32)),
        Row("DeepSeek, 32 H200, 4K assumed", wide, gpu, 2200.0, "colocated", "tested",
            lambda p: filled(p, ("h200", "infiniband"), plain, 32, 3072, 4096)),
        Row("DeepSeek-V3, 72 H100, 2,000 tokens in, 1,000 out assumed", LMSYS, node, 22300.0, "colocated", "tested",
            lambda p: 8 * filled(p, ("h100", "infiniband"), plain, 72, 2500, 3000)),
        Row("DeepSeek-R1, 16 H20, 4,096 tokens in, 1,000 out assumed", ANT, node, 5700.0, "colocated", "tested",
            lambda p: 8 * filled(p, ("h20", "infiniband"), small, 16, 4596, 5096)),
        Row("DeepSeek, 8 GB200, NVFP4 experts", gb200, gpu, 10100.0, "colocated", "tested",
            lambda p: filled(p, ("gb200", "nvl72"), narrow, 8, 3072, 4096)),
        Row("DeepSeek-V3, prompts of 2,000 tokens, 8 H100", LMSYS, node, 52300.0, "prefill", "fitted", h100_prompts),
        Row("DeepSeek-R1, prompts of 4,096 tokens, 8 H20", ANT, node, 16500.0, "prefill", "tested", h20_prompts),
        Row("DeepSeek, prompts of 2,000 tokens, 2 GB200, NVFP4 experts", gb200, gpu, 26200.0, "prefill", "tested",
            gb200_prompts),
    ]  # fmt: skip
