"""Products at real widths with every tile worth trying, and what comes of it.

Legend: N outputs, K inputs, G experts, P pairs, D hidden, F inner width, M rows.
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

from bench.gpu.bench import GIVES_UP, Bench, first_line
from bench.gpu.expert_inputs import FP8, Rows, Weights
from bench.gpu.main import release
from bench.gpu.tile_candidates import tiles
from bench.gpu.timing import QUICK_S

SETS = 4  # of a dense product's weights, in turn: L2 would hold one
FEW = 64  # rows that the small tile is chosen for
Compute = Callable[[Tile], Tensor]


@dataclass(frozen=True)
class Product:
    """`inputs` draws so many rows (for each expert) and returns what computes with a tile, one for each input set."""

    name: str
    n: int
    k: int
    kind: str
    pair: bool
    inputs: Callable[[int], list[Compute]]


def products(bench: Bench) -> Iterator[Product]:
    """Dense ones in bf16; the experts' two in bf16 and fp8."""
    new = partial(torch.randn, device=bench.device, dtype=torch.bfloat16)
    for n, k in bench.sizes.linear:
        weights = [new(n, k).mul_(k**-0.5) for _ in range(SETS)]

        def dense(rows: int, weights: list[Tensor] = weights) -> list[Compute]:
            return [partial(_linear, new(rows, w_NK.shape[1]), w_NK) for w_NK in weights]

        yield Product(f"linear {n} x {k}, bf16", n, k, "bf16", False, dense)
    s = bench.sizes
    for kind in ("bf16", "fp8"):
        experts = Weights.drawn(kind, s.experts, s.hidden, s.inner, bench.device)
        for part in (_gate_up, _down):
            yield part(bench, experts)


def _linear(x_MK: Tensor, w_NK: Tensor, tile: Tile) -> Tensor:
    return linear_triton(x_MK, w_NK, tile=tile)


def _gate_up(bench: Bench, weights: Weights) -> Product:

    groups, hidden, inner = weights.sizes

    def inputs(rows: int) -> list[Compute]:
        batch = Rows.drawn(bench, groups, rows)
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
        batch = Rows.drawn(bench, groups, rows)
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
    """Seconds of each tile by rows, and which gave other bits than the tile in use for few rows, or did not run."""

    seconds: dict[Tile, dict[int, float]]
    other_bits: set[Tile]
    failed: dict[Tile, str]


def try_all(bench: Bench, product: Product, deadline_s: float) -> Tried:

    candidates = tiles(bench, product.n, product.k, torch.bfloat16 if product.kind == "bf16" else FP8, product.pair)
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
            except GIVES_UP as error:
                tried.failed[tile] = first_line(error)
        release(bench)
    return tried


def choose(tried: Tried, rows: list[int]) -> Tile | None:
    """The tile that is slowest by the least factor over all of these rows; None without one measured at all of them."""
    complete = {tile: s for tile, s in tried.seconds.items() if all(r in s for r in rows)}
    if not complete or not rows:
        return None
    best = {r: min(s[r] for s in complete.values()) for r in rows}
    return min(complete, key=lambda tile: math.prod(complete[tile][r] / best[r] for r in rows))


def advice(product: Product, tried: Tried, rows: tuple[int, ...], dry: bool) -> list[str]:
    few, many = [r for r in rows if r <= FEW], [r for r in rows if r > FEW]
    small, large = choose(tried, few), choose(tried, many)
    if small is None or large is None:
        return [f"{product.name}: not measured: the time was over"]
    at = tried.seconds
    crossing = next((r for r in many if at[large][r] < at[small].get(r, math.inf)), 0)
    same = not {small, large} & tried.other_bits
    lines = [
        f"{product.name}, (N, K) = ({product.n}, {product.k})",
        f"  Paths({small}, {large}, {crossing or 'never'})",
    ]
    lines.append(f"  {'the same bits here: rows may choose' if same else 'other bits: rows may not choose'}")
    for tile, seconds in [] if dry else at.items():
        times = ", ".join(f"{r}: {1e6 * s:.0f}" for r, s in seconds.items())
        lines.append(f"  {tile}: us by rows {times}{' (other bits)' if tile in tried.other_bits else ''}")
    return lines + [f"  {tile}: cannot run: {why}" for tile, why in tried.failed.items()]
