"""The GPU benchmark without a GPU: every path runs in Triton's interpreter, and no time is reported."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import caracal_kernels.triton  # noqa: F401  before triton
import pytest
import torch
from caracal_kernels.triton.tiles import Tile
from support.op_inputs import DEVICE
from support.ops_compile import SM90_SHARED_BYTES, compile_sm90, why_not
from torch import Tensor

from bench.gpu import experts, main, report
from bench.gpu.bench import Baseline, Bench, Case, Ceilings, Mismatch, Row, SkippedCase, distance, fastest
from bench.gpu.expert_inputs import Rows, Weights
from bench.gpu.layer_slice.parent import fitted, layer_bytes, moved_and_flops
from bench.gpu.sizes import LONGCAT, REAL, TINY
from bench.gpu.split_k import split_k_kernel, split_k_linear
from bench.gpu.timing import NoClock
from bench.gpu.tuning import Tried, choose
from services.checkpoint.config import ModelConfig

REPO = Path(__file__).resolve().parents[2]
MILLISECOND = re.compile(r"\d\s*(ms|us|µs|TB/s|TFLOP/s)\b")


def command(module: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(str(REPO / part) for part in ("", "kernels", "proto"))
    env = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "2"} | environment
    return subprocess.run(
        [sys.executable, "-m", module, *arguments], env=env, cwd=REPO, capture_output=True, text=True, timeout=240
    )


def dry_bench() -> Bench:
    return Bench(torch.device(DEVICE), TINY, NoClock(), dry=True)


USUAL = Row(
    section="s", case="c", seconds=2e-3, bytes=10**9, flops=10**9, bound="bandwidth", floor_s=1e-3, goal=0.85,
    baseline="other", baseline_s=3e-3,
)  # fmt: skip


def row(**changed: Any) -> Row:
    return replace(USUAL, **changed)


@pytest.mark.processes
def test_a_dry_run_runs_every_path_and_measures_nothing(tmp_path: Path) -> None:
    done = command("bench.gpu.main", "--dry", "--out", str(tmp_path), OUT=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    for section in main.SECTIONS:
        assert any(line.startswith(f"{section}: ") for line in lines), section
    for kind in ("bf16", "fp8"):
        for link in ("grpc", "nccl"):
            assert any(line.startswith("layer slice: ") and f"{kind}, {link}, " in line for line in lines), (kind, link)
    assert lines[-1].startswith("dry run: ")
    assert lines[-1].endswith("0 cases skipped; nothing was measured")
    assert not MILLISECOND.search(done.stdout)
    assert not list(tmp_path.iterdir())


@pytest.mark.processes
def test_a_dry_tuning_runs_every_path() -> None:
    done = command("bench.gpu.tune", "--dry")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("Paths(Tile(") == len(TINY.linear) + 4
    assert not MILLISECOND.search(done.stdout)


@pytest.mark.processes
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("module", ["bench.gpu.main", "bench.gpu.tune"])
def test_without_a_gpu_it_prints_one_line_and_exits_with_2(module: str, tmp_path: Path) -> None:
    done = command(module, *(["--out", str(tmp_path)] if module.endswith("main") else []), OUT=str(tmp_path))
    assert done.returncode == 2
    assert re.fullmatch(r".*no GPU that torch can use on this machine; nothing is measured\n", done.stdout)
    assert not list(tmp_path.iterdir())


def test_the_binding_ceiling_and_the_share() -> None:
    ceilings = Ceilings(bandwidth=1e12, rates={"bf16": 1e14})
    assert ceilings.binding(10**9, 10**9, "bf16") == ("bandwidth", 1e-3)
    assert ceilings.binding(10**9, 10**12, "bf16") == ("bf16 rate", 1e-2)
    assert row().share == pytest.approx(0.5)


def test_the_table_and_the_files(tmp_path: Path) -> None:
    found = report.Report({"device": "a card", "torch": "torch 2"})
    found.add(
        [
            row(),
            row(section="t", baseline="none: absent", baseline_s=math.nan, goal=0.4),
            SkippedCase("t", "d", "skipped: late"),
        ]
    )
    assert not found.failed
    found.write([tmp_path / "one", tmp_path / "two"])
    table = (tmp_path / "one" / "gpu.md").read_text()
    assert "| c | 2 ms | 50.0 % of bandwidth | 85 %, **missed** | other, 3 ms | 1.50 × |" in table
    assert "| 40 % | none: absent |" in table
    assert "- t, d: skipped: late" in table
    data = json.loads((tmp_path / "two" / "gpu.json").read_text())
    assert [one["baseline_s"] for one in data["rows"]] == [3e-3, None]
    assert data["rows"][0]["share"] == pytest.approx(0.5)
    assert data["skipped"][0]["reason"] == "skipped: late"


def test_late_cases_are_skipped_and_failing_ones_reported() -> None:
    bench, found = dry_bench(), report.Report({})

    def fails() -> list[Row]:
        raise RuntimeError("first\nsecond")

    def late() -> list[Row]:
        bench.deadline_s = time.monotonic()
        return [row()]

    def cases(_: Bench) -> Iterator[Case]:
        yield Case("fails", fails)
        yield Case("late", late)
        yield Case("never", late)
        raise ValueError("prepared badly")

    main.run_section(bench, found, "s", cases)
    assert len(found.rows) == 1
    assert [(one.case, one.reason, one.failed) for one in found.skipped] == [
        ("fails", "RuntimeError: first", True),
        ("never", "skipped: the section's time is used up", False),
        ("preparation", "ValueError: prepared badly", True),
    ]
    assert found.failed


@pytest.mark.parametrize("kind", ["bf16", "fp8"])
def test_a_wrong_result_is_not_timed(kind: str) -> None:
    bench = dry_bench()
    weights, rows = Weights.random(kind, 3, 128, 64, bench.device), Rows.random(bench, 3, 4)
    y_AD = experts.compute(weights, rows)
    assert experts.check(weights, rows, y_AD) < experts.LIMIT
    with pytest.raises(Mismatch):
        experts.check(weights, rows, y_AD.roll(1, 0))
    unwritten = y_AD.clone()
    unwritten[5, 7] = math.nan
    with pytest.raises(ValueError, match="not finite"):
        experts.check(weights, rows, unwritten)


def test_a_baseline_must_run_and_give_the_right_result() -> None:
    ours = torch.randn(5, 4)

    def absent() -> Tensor:
        raise ImportError("no such library")

    wrong = Baseline("wrong", [lambda: None], lambda: ours + 1)
    missing = Baseline("missing", [absent], absent)
    right = Baseline("right", [lambda: None], lambda: ours * 1.001)
    assert fastest(NoClock(), [wrong, missing, right], ours)[0] == "right"
    name, seconds = fastest(NoClock(), [wrong, missing], ours)
    assert re.match(r"none: wrong: relative error .*; missing: no such library", name)
    assert math.isnan(seconds)


def test_the_distance_of_two_results() -> None:
    exact = torch.randn(5000, 3)  # more than one chunk
    other = exact.clone()
    other[4999] += 1
    expected = ((other - exact).double().norm() / exact.double().norm()).item()
    assert distance(other, exact) == pytest.approx(expected)
    other[4500, 1] = math.nan
    assert distance(other, exact) == math.inf


def test_split_k_gives_the_same_product() -> None:
    x_MK, w_NK = (torch.randn(outputs, 200, device=DEVICE).bfloat16() for outputs in (5, 70))
    exact_MN = x_MK.double() @ w_NK.double().T
    for parts in (1, 3):
        assert distance(split_k_linear(x_MK, w_NK, Tile(16, 64, 64, 4, 1, swap_ab=True), parts), exact_MN) < 5e-3


@pytest.mark.processes
@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_split_k_compiles_for_hopper() -> None:
    signature = {"x_ptr": "*bf16", "w_ptr": "*bf16", "sum_ptr": "*fp32", "M": "i32", "N": "i32", "K": "i32"}
    made = compile_sm90(split_k_kernel, signature, {"BM": 64, "BN": 128, "BK": 64}, 8, 4, ("N", "K"))
    assert made.shared_bytes <= SM90_SHARED_BYTES
    assert made.spills == 0
    assert "wgmma.mma_async.sync.aligned.m64n" in made.ptx


def test_the_chosen_tile() -> None:
    a, b, c = (Tile(bm, 64, 64, 4, 1, swap_ab=True) for bm in (16, 32, 64))
    tried = Tried({a: {1: 1.0, 16: 4.0}, b: {1: 1.2, 16: 2.0}, c: {1: 0.1}}, set(), {})
    assert choose(tried, [1, 16]) == b  # c was not measured at 16
    assert choose(tried, [1]) == c
    assert choose(tried, [64]) is None


def test_bytes_and_parameters_of_a_slice() -> None:
    """A layer of LongCat-Flash has 19,966,227,200 parameters, each of its 512 experts 37,748,736. The gate is fp32."""
    config = ModelConfig.from_dict(LONGCAT | {"num_layers": 1, "max_position_embeddings": 4096})
    dense, expert = layer_bytes(config, "bf16")
    assert expert == 2 * 37_748_736
    assert layer_bytes(config, "fp8")[1] == 37_748_736
    gate = 768 * 6144 + 768
    assert (dense - 4 * gate) // 2 + gate == pytest.approx(19_966_227_200 - 512 * 37_748_736, rel=1e-5)
    moved, _ = moved_and_flops(config, "bf16", 1, 0)
    assert moved == dense + 512 * 12 / 768 * expert  # one row has 8 experts, on average


@pytest.mark.parametrize(
    ("kind", "memory_gb", "layers", "experts"),
    [("bf16", 70, 1, 512), ("fp8", 70, 3, 512), ("bf16", 130, 3, 512), ("bf16", 20, 1, 239), ("bf16", 2000, 28, 512)],
)
def test_the_slice_that_fits(kind: str, memory_gb: int, layers: int, experts: int) -> None:
    found = ModelConfig.from_dict(fitted(REAL, kind, memory_gb * 1e9))
    assert (found.num_layers, found.n_routed_experts) == (layers, experts)
