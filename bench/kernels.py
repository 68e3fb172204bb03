"""What the ops cost on this machine at the bench configuration's sizes: `python -m bench.kernels [threads]`.

Prints products (weights from memory) and one decode step of the attention side, Python dispatch included.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import caracal_kernels as k
import torch
from torch import Tensor

LAYERS, HIDDEN, HEADS, NOPE, LATENT, ROPE, VALUE, Q_RANK, INNER, VOCABULARY = 4, 512, 8, 32, 64, 16, 32, 192, 1024, 8192
CONTEXT = 64


def best_us(call: Callable[[], object], repeats: int = 15) -> float:
    """The fastest of some calls, in µs: other load on the machine only ever adds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times) * 1e6


def weight(*shape: int) -> Tensor:
    return (torch.randn(*shape) * 0.05).bfloat16()


def products() -> None:
    weights = [weight(2048, HIDDEN) for _ in range(64)]
    for rows in (1, 8, 16, 32, 128):
        x = weight(rows, HIDDEN)
        us = best_us(lambda x=x: [k.linear(x, w) for w in weights]) / len(weights)
        print(f"linear {rows:4} rows {us:7.0f} us {2.097e3 / us:6.1f} GB/s {rows * 2.097e3 / us:6.0f} GFLOP/s")


def attention_side(rows: int) -> Callable[[], Tensor]:
    """A decode step without experts: each layer's two MLAs, two MLPs and gate, then the final norm and the head."""
    i32 = torch.int32
    position, seq = torch.full((rows,), CONTEXT, dtype=i32), torch.arange(rows, dtype=i32)
    table = torch.arange(2 * rows, dtype=i32).view(rows, 2)
    slots, cos_sin = table[:, 1].contiguous() * CONTEXT, torch.randn(4096, ROPE)
    caches = [torch.zeros(2 * rows, CONTEXT, LATENT + ROPE).bfloat16() for _ in range(2 * LAYERS)]
    before = [
        (
            *(weight(HIDDEN), 1e-5, weight(Q_RANK, HIDDEN), weight(Q_RANK), weight(HEADS * (NOPE + ROPE), Q_RANK)),
            *(weight(LATENT + ROPE, HIDDEN), weight(LATENT), weight(HEADS, LATENT, NOPE), cos_sin, position, slots),
        )
        for _ in caches
    ]
    after = [(weight(HEADS, VALUE, LATENT), weight(HIDDEN, HEADS * VALUE)) for _ in caches]
    mlps = [(weight(2 * INNER, HIDDEN), weight(HIDDEN, INNER)) for _ in caches]
    gates = [torch.randn(48, HIDDEN) for _ in range(LAYERS)]
    norm, bias, head, x_TD = weight(HIDDEN), torch.zeros(48), weight(VOCABULARY, HIDDEN), weight(rows, HIDDEN)

    def step() -> Tensor:
        x = x_TD
        for i, cache in enumerate(caches):
            q = k.mla_project(x, *before[i], cache, 1.6, 2.8)
            x = k.mla_output(k.mla_attention(q, cache, table, seq, position, 0.14, LATENT), *after[i], x)
            h = k.rms_norm(x, norm, 1e-5)
            if i % 2 == 0:
                k.route(h, gates[i // 2], bias, 6, 32, 6.0)
            x = k.swiglu(h, *mlps[i], x)
        return k.linear(k.rms_norm(x, norm, 1e-5), head, None, torch.float32)

    return step


def main() -> None:
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
    print(f"{k.available()}, {torch.get_num_threads()} thread(s), {CONTEXT + 1} keys a row")
    products()
    for rows in (1, 8, 32):
        print(f"attention side, {rows:2} rows: {best_us(attention_side(rows), 50) / 1e3:.2f} ms")
        logits, row = torch.randn(rows, VOCABULARY) * 3, torch.arange(rows)
        one, off = torch.ones(rows), torch.zeros(rows, dtype=torch.int32)
        plain = best_us(lambda a=(logits, row, row, one, off, one, one * 0): k.sample(*a))
        nucleus = best_us(lambda a=(logits, row, row, one, off, one * 0.9, one * 0): k.sample(*a))
        print(f"sample, {rows:2} rows: temperature {plain:.0f} us, top-p {nucleus:.0f} us")


if __name__ == "__main__":
    main()
