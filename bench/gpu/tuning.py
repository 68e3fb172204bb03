"""Measures products at real widths with every tile candidate.

Legend: M rows, N outputs, K inputs of a dense product; G experts, R rows, A (row, expert) assignments, D hidden,
F inner width.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from caracal_kernels.triton.grouped_swiglu import down_launch, gate_up_launch
from caracal_kernels.triton.linear import linear_triton
from caracal_kernels.triton.quantize import quantize_triton
from caracal_kernels.triton.tiles import Tile
from torch import Tensor

from bench.gpu.bench import CANNOT_RUN, Bench, first_line
from bench.gpu.expert_inputs import FP8, Rows, Weights
from bench.gpu.main import release
from bench.gpu.tile_candidates import tiles
from bench.gpu.timing import QUICK_S

SETS = 4  # sets of a dense product's weights, used in turn, so that none stays in L2
FEW_ROWS = 64  # the small tile is chosen for at most so many rows
Compute = Callable[[Tile], Tensor]


@dataclass(frozen=True)
class Product:
    """A product to tune. `inputs(rows)` makes input sets of so many rows; each is a function of the tile."""

    name: str
    n: int
    k: int
    kind: str
    gate_up: bool
    inputs: Callable[[int], list[Compute]]


def products(bench: Bench) -> Iterator[Product]:
    """Yields the dense products in bf16, and the experts' two products in bf16 and fp8."""
    new = partial(torch.randn, device=bench.device, dtype=torch.bfloat16)
    for n, k in bench.sizes.linear:
        weights = [new(n, k).mul_(k**-0.5) for _ in range(SETS)]

        def dense(rows: int, weights: list[Tensor] = weights) -> list[Compute]:
            return [partial(_linear, new(rows, w_NK.shape[1]), w_NK) for w_NK in weights]

        yield Product(f"linear {n} x {k}, bf16", n, k, "bf16", False, dense)
    s = bench.sizes
    for kind in ("bf16", "fp8"):
        experts = Weights.random(kind, s.experts, s.hidden, s.inner, bench.device)
        for part in (_gate_up, _down):
            yield part(bench, experts)


def _linear(x_MK: Tensor, w_NK: Tensor, tile: Tile) -> Tensor:
    return linear_triton(x_MK, w_NK, tile=tile)


def _gate_up(bench: Bench, weights: Weights) -> Product:
    groups, hidden, inner = weights.sizes

    def inputs(rows: int) -> list[Compute]:
        batch = Rows.random(bench, groups, rows)
        x, scales = batch.x_RD, None
        if weights.kind == "fp8":
            x, x_scale = quantize_triton(x)
            scales = (x_scale, weights.gate_up_scale)

        def compute(tile: Tile) -> Tensor:
            inner_AF = batch.x_RD.new_empty((groups * rows, inner))
            gate_up_launch(x, batch.row_A, batch.count_G, list(weights.gate_up_G2FD), inner_AF, tile, scales)
            return inner_AF

        return [compute]

    return Product(f"experts' gate and up, {weights.kind}", inner, hidden, weights.kind, True, inputs)


def _down(bench: Bench, weights: Weights) -> Product:
    groups, hidden, inner = weights.sizes

    def inputs(rows: int) -> list[Compute]:
        batch = Rows.random(bench, groups, rows)
        inner_AF, scales = torch.randn(groups * rows, inner, device=bench.device, dtype=torch.bfloat16), None
        if weights.kind == "fp8":
            inner_AF, inner_scale = quantize_triton(inner_AF)
            scales = (inner_scale, weights.down_scale)

        def compute(tile: Tile) -> Tensor:
            y_AD = batch.x_RD.new_empty((groups * rows, hidden))
            down_launch(inner_AF, batch.count_G, list(weights.down_GDF), y_AD, tile, scales)
            return y_AD

        return [compute]

    return Product(f"experts' down, {weights.kind}", hidden, inner, weights.kind, False, inputs)


@dataclass
class Tried:
    """Seconds of each tile by rows; tiles whose bits differ from those of the small tile in use; tiles that failed."""

    seconds: dict[Tile, dict[int, float]]
    other_bits: set[Tile]
    failed: dict[Tile, str]


def try_all(bench: Bench, product: Product, deadline_s: float) -> Tried:
    candidates = tiles(bench, product.n, product.k, torch.bfloat16 if product.kind == "bf16" else FP8, product.gate_up)
    tried = Tried({tile: {} for tile in candidates}, set(), {})
    for rows in bench.sizes.tune_rows:
        computes = product.inputs(rows)
        exact = computes[0](candidates[0])
        for tile in candidates:
            if tile in tried.failed or time.monotonic() > deadline_s:
                continue
            try:
                if not torch.equal(computes[0](tile), exact):
                    tried.other_bits.add(tile)
                tried.seconds[tile][rows] = bench.clock.seconds([partial(each, tile) for each in computes], QUICK_S)
            except CANNOT_RUN as error:
                tried.failed[tile] = first_line(error)
        release(bench)
    return tried


def choose(tried: Tried, rows: list[int]) -> Tile | None:
    """Returns the tile with the least product of slowdowns over these rows; None if none was measured at all."""
    complete = {tile: s for tile, s in tried.seconds.items() if all(r in s for r in rows)}
    if not complete or not rows:
        return None
    best = {r: min(s[r] for s in complete.values()) for r in rows}
    return min(complete, key=lambda tile: math.prod(complete[tile][r] / best[r] for r in rows))


def advice(product: Product, tried: Tried, rows: tuple[int, ...], dry: bool) -> list[str]:
    few, many = [r for r in rows if r <= FEW_ROWS], [r for r in rows if r > FEW_ROWS]
    small, large = choose(tried, few), choose(tried, many)
    if small is None or large is None:
        return [f"{product.name}: not measured: the time is used up"]
    at = tried.seconds
    crossing = next((r for r in many if at[large][r] < at[small].get(r, math.inf)), 0)
    same = not {small, large} & tried.other_bits
    lines = [
        f"{product.name}, (N, K) = ({product.n}, {product.k})",
        f"  Paths({small}, {large}, {crossing or 'never'})",
    ]
    lines.append(
        f"  {'the same bits on this device: the tile may depend on rows' if same else 'other bits: it may not'}"
    )
    for tile, seconds in [] if dry else at.items():
        times = ", ".join(f"{r}: {1e6 * s:.0f}" for r, s in seconds.items())
        lines.append(f"  {tile}: us by rows {times}{' (other bits)' if tile in tried.other_bits else ''}")
    return lines + [f"  {tile}: cannot run: {why}" for tile, why in tried.failed.items()]
