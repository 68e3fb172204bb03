"""The cost of batch invariance: our kernels as they run, against their fastest setting for each size.

Settings: another tile for each number of rows, larger steps over K, split K with atomic sums, other splits of the keys.
A setting that gives the same bits shows missing tuning, not a cost of invariance; the note of the row names it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from caracal_kernels.triton.linear import linear_triton
from caracal_kernels.triton.mla_attention import SPLIT
from caracal_kernels.triton.tiles import Tile
from torch import Tensor

from bench.gpu import decode, decode_inputs, experts
from bench.gpu.bench import CANNOT_RUN, Bench, Case, Row, milliseconds, require_close
from bench.gpu.expert_inputs import Rows, Weights
from bench.gpu.expert_inputs import moved_and_flops as expert_work
from bench.gpu.split_k import split_k_linear
from bench.gpu.tile_candidates import deeper, named, tiles
from bench.gpu.timing import QUICK_S

SECTION = "determinism"
LIMIT = 0.02  # between two settings of one kernel in bf16
MAX_TILES = 10  # of each product
PARTS = (2, 4, 8)  # of K
SPLITS = (256, 512, 2048, 4096)  # of keys, beside ours
FEW_ROWS = 64  # split K is tried up to this many rows
SETS = 4  # sets of a dense product's weights, used in turn


@dataclass(frozen=True)
class Setting:
    """A kernel with other parameters; `compute` takes the number of the input set.

    `ordered`: the order of its sums does not depend on the sizes, so that equal bits are no coincidence.
    """

    name: str
    compute: Callable[[int], Tensor]
    ordered: bool = True


@dataclass(frozen=True)
class Found:
    """Seconds of our kernel and of the fastest setting with other bits, and a note on the other settings."""

    seconds: float
    baseline: str
    baseline_s: float
    note: str


def cases(bench: Bench) -> Iterator[Case]:
    s = bench.sizes
    for n, k in s.linear:
        for rows in s.linear_rows:
            yield Case(f"linear {n} x {k}, {rows} rows", partial(_linear, bench, n, k, rows))
    for context, rows in s.determinism_decode:
        yield Case(f"decode, {rows} rows, {context} keys", partial(_decode, bench, context, rows))
    for kind in ("bf16", "fp8"):
        weights = Weights.random(kind, s.experts, s.hidden, s.inner, bench.device)
        for each in s.determinism_rows:
            yield Case(f"experts {kind}, {each} rows each", partial(_experts, bench, weights, each))


def compare(bench: Bench, sets: int, ours: Callable[[int], Tensor], others: list[Setting]) -> Found:
    """Measures our kernel and every setting that runs and gives a right result; the note names those that do not."""
    y = ours(0)
    seconds = bench.clock.seconds([partial(ours, i) for i in range(sets)], QUICK_S)
    best: dict[bool, tuple[float, str]] = {}
    failed = []
    for other in others:
        try:
            found = other.compute(0)
            require_close(found, y, LIMIT)
            other_s = bench.clock.seconds([partial(other.compute, i) for i in range(sets)], QUICK_S)
        except CANNOT_RUN as error:
            failed.append(f"{other.name} ({type(error).__name__})")
            continue
        same = other.ordered and torch.equal(found, y)
        if same not in best or other_s < best[same][0]:
            best[same] = other_s, other.name
    baseline_s, baseline = best.get(False, (math.nan, "none: every setting gives the same bits"))
    tuned_s, tuned = best.get(True, (math.nan, ""))
    notes = [f"fastest with the same bits: {milliseconds(tuned_s)}, {tuned}"] if tuned else []
    notes += [f"cannot run: {', '.join(failed)}"] if failed else []
    return Found(seconds, baseline, baseline_s, "; ".join(notes))


def _row(bench: Bench, case: str, work: tuple[int, int], kind: str, found: Found) -> Row:
    bound, floor_s = bench.ceilings.binding(*work, kind)
    return Row(
        section=SECTION,
        case=case,
        seconds=found.seconds,
        bytes=work[0],
        flops=work[1],
        bound=bound,
        floor_s=floor_s,
        baseline=found.baseline,
        baseline_s=found.baseline_s,
        note=found.note,
    )


def _linear(bench: Bench, n: int, k: int, rows: int) -> list[Row]:
    new = partial(torch.randn, device=bench.device, dtype=torch.bfloat16)
    operands = [(new(rows, k), new(n, k) * k**-0.5) for _ in range(SETS)]

    def with_tile(i: int, tile: Tile | None = None) -> Tensor:
        return linear_triton(*operands[i], tile=tile)

    candidates = tiles(bench, n, k, torch.bfloat16, gate_up=False, most=MAX_TILES)

    def in_parts(i: int, parts: int) -> Tensor:
        return split_k_linear(*operands[i], candidates[0], parts)

    others = [Setting(named(tile), partial(with_tile, tile=tile)) for tile in [*candidates, deeper(candidates[0])]]
    if rows <= FEW_ROWS:
        others += [Setting(f"K in {parts} parts", partial(in_parts, parts=parts), ordered=False) for parts in PARTS]
    work = 2 * (rows * k + n * k + rows * n), 2 * rows * n * k
    found = compare(bench, SETS, with_tile, others)
    library_s = bench.clock.seconds([partial(torch.mm, x, w.t()) for x, w in operands])
    found = replace(found, note="; ".join(filter(None, [found.note, f"torch.mm: {milliseconds(library_s)}"])))
    return [_row(bench, f"linear {n} x {k}, {rows} rows", work, "bf16", found)]


def _decode(bench: Bench, context: int, rows: int) -> list[Row]:
    latent = bench.sizes.latent
    sets = decode_inputs.batches(bench, context, rows)

    def attend(i: int, split: int = SPLIT) -> Tensor:
        return decode.attend(latent, sets[i], split)

    others = [Setting(f"splits of {split} keys", partial(attend, split=split), ordered=False) for split in SPLITS]
    found = compare(bench, len(sets), attend, others)
    work = decode.moved_and_flops(bench, context, rows)
    return [_row(bench, f"mla_attention, {rows} rows, {context} keys each, splits of {SPLIT}", work, "bf16", found)]


def _experts(bench: Bench, weights: Weights, each: int) -> list[Row]:
    groups, hidden, inner = weights.sizes
    rows = Rows.random(bench, groups, each)
    dtype = weights.gate_up_G2FD.dtype

    def compute(_: int, tile: Tile | None = None) -> Tensor:
        return experts.compute(weights, rows, tile)

    candidates = tiles(bench, inner, hidden, dtype, gate_up=True, most=MAX_TILES)
    if weights.kind == "bf16":  # in fp8 a step is what one scale covers
        candidates = [*candidates, deeper(candidates[0])]
    others = [Setting(named(tile), partial(compute, tile=tile)) for tile in candidates]
    found = compare(bench, 1, compute, others)
    case = f"grouped_swiglu {weights.kind}, {groups} experts, {each} rows each"
    return [_row(bench, case, expert_work(weights, groups * each), weights.kind, found)]
