"""One attention sublayer, in two parts: projections, which read weights, and the core, which reads the KV cache.

Legend: r rows, b sequences, c context (tokens before each row).
"""

from __future__ import annotations

from services.planner.device import Device
from services.planner.shape import BYTES, Attention
from services.planner.work import Work, product

QKV_OPS, OUT_OPS, CORE_OPS = 7, 3, 3  # norm, quantise, q_a and kv_a, two norms, q_b, rope and cache; out; core, reduce


def qkv(a: Attention, rows: float, dtype: str, tp: int = 1) -> Work:
    """Norm, queries, latents and the cache's new row; what every rank has whole, it computes whole."""
    return product(rows, a.whole + (a.projected - a.out - a.whole) / tp, dtype, BYTES[dtype], QKV_OPS)


def out(a: Attention, rows: float, dtype: str, tp: int = 1) -> Work:
    return product(rows, a.out / tp, dtype, BYTES[dtype], OUT_OPS)


def core_s(
    a: Attention, sequences: float, rows: float, context: float, kv_dtype: str, device: Device, tp: int = 1
) -> float:
    """Seconds of scores and values over the cache; an index, where there is one, scores every key first."""
    keys = a.keys(context)
    cache_bytes = sequences * keys * a.cached_bytes(kv_dtype) / min(tp, a.kv_heads)
    flops = rows * keys * a.key_flops / tp
    index_bytes = sequences * context * a.index_width * BYTES["fp8"] if a.kept and context > a.kept else 0.0
    index_flops = rows * context * 2 * a.index_heads * a.index_width / tp if index_bytes else 0.0
    peak = device.attention_flops or device.gemm_flops("bf16")
    busy = max(cache_bytes / device.memory_bytes_s, flops / peak)
    busy += max(index_bytes / (device.index_bytes_s or device.memory_bytes_s), index_flops / device.gemm_flops("fp8"))
    return busy / device.factors.efficiency + CORE_OPS * device.factors.op_s
