"""Products of a model's own sizes: how many of them a device does, and what share of its roofline that is.

Weights come from memory, as they do in a step: calls go through enough of them in turn. Legend: M rows, K inputs, N
outputs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import caracal_kernels as k
import torch
from torch import Tensor

from services.checkpoint.config import ModelConfig
from services.planner.device import Device

ROWS = (1, 8, 32)
BESIDE_BYTES, MOST = 1 << 26, 64  # of the weights that take turns; of their number
PASS_S, PASSES = 0.05, 5  # of all passes together, and how many there are at least
VALUE_BYTES = 2  # bf16


@dataclass(frozen=True, slots=True)
class Product:
    """x [M, K] times w [N, K] transposed."""

    name: str
    inner: int
    outer: int

    @property
    def weight_bytes(self) -> int:
        return VALUE_BYTES * self.inner * self.outer


@dataclass(frozen=True, slots=True)
class Timed:
    """Seconds of one product of so many rows."""

    product: Product
    rows: int
    seconds: float

    @property
    def flops_s(self) -> float:
        return 2 * self.rows * self.product.inner * self.product.outer / self.seconds

    @property
    def bytes_s(self) -> float:
        return self.product.weight_bytes / self.seconds

    def share(self, device: Device) -> float:
        """How much it is of what memory or products allow, whichever is less."""
        return max(self.bytes_s / device.memory_bytes_s, self.flops_s / device.gemm_flops("bf16"))


def products_of(config: ModelConfig) -> list[Product]:
    """The products of a layer and of the head, as an attention or expert worker has them."""
    c, heads = config, config.num_attention_heads
    return [
        Product("queries and latents", c.hidden_size, c.q_lora_rank + c.kv_lora_rank + c.qk_rope_head_dim),
        Product("queries of heads", c.q_lora_rank, heads * (c.qk_nope_head_dim + c.qk_rope_head_dim)),
        Product("attention's output", heads * c.v_head_dim, c.hidden_size),
        Product("MLP in", c.hidden_size, 2 * c.ffn_hidden_size),
        Product("MLP out", c.ffn_hidden_size, c.hidden_size),
        Product("expert in", c.hidden_size, 2 * c.expert_ffn_hidden_size),
        Product("expert out", c.expert_ffn_hidden_size, c.hidden_size),
        Product("head", c.hidden_size, c.vocab_size),
    ]


def distinct(products: Iterable[Product]) -> list[Product]:
    """The first product of each size."""
    return list({(one.inner, one.outer): one for one in reversed(list(products))}.values())[::-1]


class Clock(Protocol):
    """Seconds of one call, of several that take turns."""

    def seconds(self, calls: Sequence[Callable[[], object]]) -> float: ...


class HostClock:
    """The fastest pass through all calls, by the clock of this process."""

    def seconds(self, calls: Sequence[Callable[[], object]]) -> float:
        best, began, passes = float("inf"), time.perf_counter(), 0
        while passes < PASSES or time.perf_counter() < began + PASS_S:
            start = time.perf_counter()
            for call in calls:
                call()
            best, passes = min(best, time.perf_counter() - start), passes + 1
        return best / len(calls)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def on_one_core(products: Iterable[Product], rows: Sequence[int] = ROWS) -> list[Timed]:
    """By the kernels of the engine on the CPU, with one thread and packed weights."""

    def weight(outer: int, inner: int) -> Tensor:
        plain = torch.randn(outer, inner).mul_(0.05).bfloat16()
        return plain if outer % 16 else k.pack_weights(plain)

    with _one_thread():
        return timed(products, rows, weight, k.linear, HostClock(), torch.device("cpu"))


def timed(
    products: Iterable[Product],
    rows: Sequence[int],
    weight: Callable[[int, int], Tensor],
    multiply: Callable[[Tensor, Tensor], Tensor],
    clock: Clock,
    device: torch.device,
) -> list[Timed]:
    """Times each product with each number of rows. `weight` makes one [N, K], as `multiply` takes it."""
    found = []
    for product in products:
        copies = min(MOST, max(1, BESIDE_BYTES // product.weight_bytes))
        weights = [weight(product.outer, product.inner) for _ in range(copies)]
        for count in rows:
            x_MK = torch.randn(count, product.inner, device=device).bfloat16()
            calls = [partial(multiply, x_MK, one) for one in weights]
            found.append(Timed(product, count, clock.seconds(calls)))
    return found


def usual_share(found: Sequence[Timed], device: Device) -> float:
    """The median share of the roofline."""
    return statistics.median(one.share(device) for one in found)


def lines(found: Sequence[Timed], device: Device, kind: str) -> list[str]:
    """Each product as a table of the profile's TOML."""
    said = []
    for one in found:
        product = one.product
        said += [
            f"[[measured.products_{kind}]]",
            f'name = "{product.name}"',
            f"inner = {product.inner}",
            f"outer = {product.outer}",
            f"rows = {one.rows}",
            f"us = {1e6 * one.seconds:.4g}",
            f"gflops = {one.flops_s / 1e9:.4g}",
            f"gb_s = {one.bytes_s / 1e9:.4g}",
            f"of_roofline = {one.share(device):.3g}",
        ]
    return said
