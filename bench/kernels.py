"""`python -m bench.kernels [threads]` times the ops on this machine at the sizes of the bench model.

Prints products (with weights from memory) and one decode step of the attention side, including Python dispatch.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial

import caracal_kernels as k
import torch
from torch import Tensor

LAYERS, HIDDEN, HEADS, NOPE, LATENT, ROPE, VALUE, Q_RANK, INNER, VOCABULARY = 4, 512, 8, 32, 64, 16, 32, 192, 1024, 8192
CONTEXT = 64


def best_us(call: Callable[[], object], repeats: int = 15) -> float:
    """Returns the time of the fastest call in µs; slower ones suffer from other load on the machine."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times) * 1e6


def weight(*shape: int) -> Tensor:
    return (torch.randn(*shape) * 0.05).bfloat16()


def packed(*shape: int) -> Tensor:
    return k.pack_weights(weight(*shape))


def products() -> None:
    for kind, make in (("plain", weight), ("packed", packed)):
        weights = [make(2048, HIDDEN) for _ in range(64)]
        for rows in (1, 8, 16, 32, 128):
            x = weight(rows, HIDDEN)
            us = best_us(partial(_linears, x, weights)) / len(weights)
            rates = f"{2.097e3 / us:6.1f} GB/s {rows * 2.097e3 / us:6.0f} GFLOP/s"
            print(f"linear {rows:4} rows, {kind:6} {us:7.0f} us {rates}")


def _linears(x: Tensor, weights: list[Tensor]) -> list[Tensor]:
    return [k.linear(x, w) for w in weights]


def attention_side(rows: int) -> Callable[[], Tensor]:
    """Returns a decode step without experts: each layer's MLAs, MLPs and gate, then the final norm and the head."""
    i32 = torch.int32
    position, seq = torch.full((rows,), CONTEXT, dtype=i32), torch.arange(rows, dtype=i32)
    table = torch.arange(2 * rows, dtype=i32).view(rows, 2)
    slot_mapping, cos_sin = table[:, 1].contiguous() * CONTEXT, torch.randn(4096, ROPE)
    caches = [torch.zeros(2 * rows, CONTEXT, LATENT + ROPE).bfloat16() for _ in range(2 * LAYERS)]
    weights = [
        k.MlaWeights(
            norm_D=weight(HIDDEN),
            q_a_QD=packed(Q_RANK, HIDDEN),
            q_a_norm_Q=weight(Q_RANK),
            q_b_EQ=packed(HEADS * (NOPE + ROPE), Q_RANK),
            kv_a_LD=packed(LATENT + ROPE, HIDDEN),
            kv_a_norm_C=weight(LATENT),
            w_uk_HCN=packed(HEADS, LATENT, NOPE),
            w_uv_HUC=packed(HEADS, VALUE, LATENT),
            o_proj_DO=packed(HIDDEN, HEADS * VALUE),
            cos_sin_MR=cos_sin,
            norm_eps=1e-5,
            lora_eps=1e-6,
            q_scale=1.6,
            kv_scale=2.8,
        )
        for _ in caches
    ]
    mlps = [(packed(2 * INNER, HIDDEN), packed(HIDDEN, INNER)) for _ in caches]
    gates = [k.pack_weights(torch.randn(48, HIDDEN)) for _ in range(LAYERS)]
    norm, bias, head, x_TD = weight(HIDDEN), torch.zeros(48), packed(VOCABULARY, HIDDEN), weight(rows, HIDDEN)

    def step() -> Tensor:
        x = x_TD
        for i, cache in enumerate(caches):
            w = weights[i]
            q = k.mla_project(x, w, position, slot_mapping, cache)
            o = k.mla_attention(q, cache, table, seq, position, 0.14, LATENT)
            x = k.mla_output(o, w.w_uv_HUC, w.o_proj_DO, x)
            h = k.rms_norm(x, norm, 1e-5)
            if i % 2 == 0:
                k.route(h, gates[i // 2], bias, 6, 32, 6.0)
            x = k.swiglu(h, *mlps[i], x)
        return k.linear(k.rms_norm(x, norm, 1e-5), head, None, torch.float32)

    return step


def main() -> None:
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
    print(f"{k.cpu_backend()}, {torch.get_num_threads()} thread(s), {CONTEXT + 1} keys a row")
    products()
    for rows in (1, 8, 32):
        print(f"attention side, {rows:2} rows: {best_us(attention_side(rows), 50) / 1e3:.2f} ms")
        logits, row = torch.randn(rows, VOCABULARY) * 3, torch.arange(rows)
        one, off = torch.ones(rows), torch.zeros(rows, dtype=torch.int32)
        plain = best_us(partial(k.sample, logits, row, row, one, off, one, one * 0))
        nucleus = best_us(partial(k.sample, logits, row, row, one, off, one * 0.9, one * 0))
        print(f"sample, {rows:2} rows: temperature {plain:.0f} us, top-p {nucleus:.0f} us")


if __name__ == "__main__":
    main()
