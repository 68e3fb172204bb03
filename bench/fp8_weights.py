"""`python -m bench.fp8_weights [--mib N] [--threads N] [--out FILE]`: decode over weights in bf16 and in fp8.

Products of 1 and of 8 rows with matrices of the size of LongCat-Flash's experts (gate and up, 4096 x 6144), as many as
take `--mib` MiB in bf16, so that every product reads its weights from memory. The same weights twice: dequantized when
they are loaded, and kept in fp8. Interleaved, medians of rounds; the results of the two are compared bit by bit.
Legend: N outputs, K inputs, n = N / 128 and k = K / 128.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import caracal_kernels as k
import torch
from torch import Tensor

from bench import arguments
from services.checkpoint.fp8 import dequantize
from services.checkpoint.quantization import BLOCK

OUTPUTS, INPUTS, ROWS = 4096, 6144, (1, 8)
MIB, ROUNDS = 256, 15
OUT = Path(__file__).parent / "results" / "fp8.json"


def random_fp8() -> tuple[Tensor, Tensor]:
    """(e4m3 weight [N, K], fp32 scales [n, k]) about as large as a model's."""
    weight_NK = torch.randn(OUTPUTS, INPUTS).mul_(64).to(torch.float8_e4m3fn)
    return weight_NK, torch.rand(OUTPUTS // BLOCK, INPUTS // BLOCK).add_(0.5).mul_(2e-4)


def matrices(count: int) -> dict[str, list[Tensor]]:
    """The same matrices in both forms."""
    found: dict[str, list[Tensor]] = {"bf16": [], "fp8": []}
    for _ in range(count):
        weight_NK, scale_nk = random_fp8()
        found["bf16"].append(k.pack_weights(dequantize(weight_NK, scale_nk, torch.bfloat16)))
        found["fp8"].append(k.pack_fp8(weight_NK, scale_nk.repeat_interleave(BLOCK // k.FP8_OUTPUTS, dim=0)))
    return found


def measure(weights: dict[str, list[Tensor]], rows: int, rounds: int) -> dict[str, dict[str, float]]:
    """By form: milliseconds of a matrix, and the GB/s that its product reads."""
    x = torch.randn(rows, INPUTS).bfloat16()
    for one, other in zip(*weights.values(), strict=True):
        assert torch.equal(k.linear(x, one), k.linear(x, other)), "the bits differ"
    seconds: dict[str, list[float]] = {form: [] for form in weights}
    for _ in range(rounds):
        for form, each in weights.items():
            began = time.perf_counter()
            for w in each:
                k.linear(x, w)
            seconds[form].append((time.perf_counter() - began) / len(each))
    medians = {form: statistics.median(found) for form, found in seconds.items()}
    return {
        form: {"ms": round(took * 1e3, 3), "gb_per_s": round(weights[form][0].nbytes / took / 1e9, 1)}
        for form, took in medians.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Time products of few rows with weights in bf16 and in fp8.")
    parser.add_argument("--mib", type=arguments.number(1), default=MIB, help="of weights in bf16")
    parser.add_argument("--threads", type=arguments.number(1, arguments.MOST_THREADS), default=os.cpu_count())
    parser.add_argument("--rounds", type=arguments.number(1), default=ROUNDS)
    parser.add_argument("--out", type=arguments.file, default=OUT, help="a JSON file for the figures")
    args = parser.parse_args()
    if not k.takes_fp8(torch.bfloat16, torch.device("cpu")):
        parser.error(f"the compiled kernels alone keep weights in fp8, these are {k.cpu_backend()}")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    weights = matrices(max(1, (args.mib << 20) // (2 * OUTPUTS * INPUTS)))
    by_rows = {str(rows): measure(weights, rows, args.rounds) for rows in ROWS}
    print(f"{k.cpu_backend()}, {args.threads} thread(s), {len(weights['bf16'])} matrices: ms and GB/s of each")
    for rows, found in by_rows.items():
        print(f"{rows:>3} rows", *(f"{form:>6} {at['ms']:8.3f} {at['gb_per_s']:6.1f}" for form, at in found.items()))
    result: dict[str, Any] = {
        "kernels": k.cpu_backend(),
        "cores": os.cpu_count(),
        "threads": args.threads,
        "rounds": args.rounds,
        "matrices": len(weights["bf16"]),
        "bytes_of_a_matrix": {form: each[0].nbytes for form, each in weights.items()},
        "by_rows": by_rows,
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
