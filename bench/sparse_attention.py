"""`python -m bench.sparse_attention [--out FILE]`: one decode row of attention, full and sparse, by context.

At LongCat-Flash's latent size (512 + 64 values), 8 of its 64 heads, bf16, one thread; the sparse row reads the first
block of 128 positions and the last two. Interleaved, medians of rounds.
Legend: L values of a latent, X pages of a row.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import caracal_kernels as k
import torch

HEADS, LATENT, ROPE, PAGE = 8, 512, 64, 64
MODES = {"full": (0, 0), "sparse": (1, 2)}
SHORTEST, LONGEST, ROUNDS = 1024, 131072, 15


def measure(longest: int, rounds: int) -> dict[str, dict[str, float]]:
    """Microseconds of one row by mode and context."""
    cache_PIL = torch.randn(longest // PAGE, PAGE, LATENT + ROPE).bfloat16()
    table_SX = torch.randperm(longest // PAGE).int()[None]
    q_THL = torch.randn(1, HEADS, LATENT + ROPE).bfloat16()
    seq_T = torch.zeros(1, dtype=torch.int32)
    contexts = [SHORTEST]
    while contexts[-1] * 2 <= longest:
        contexts.append(contexts[-1] * 2)
    times: dict[tuple[str, int], list[float]] = {(mode, context): [] for context in contexts for mode in MODES}
    for _ in range(rounds):
        for (mode, context), found in times.items():
            position_T = torch.tensor([context - 1], dtype=torch.int32)
            began = time.perf_counter()
            k.mla_attention(q_THL, cache_PIL, table_SX, seq_T, position_T, 0.07, LATENT, *MODES[mode])
            found.append(time.perf_counter() - began)
    return {
        mode: {str(context): round(statistics.median(times[mode, context]) * 1e6, 1) for context in contexts}
        for mode in MODES
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Time full and sparse attention of one row by context.")
    parser.add_argument("--longest", type=int, default=LONGEST)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(args.longest, args.rounds)
    print(f"{k.cpu_backend()}, one thread: us per row\n{'context':>8} {'full':>10} {'sparse':>10}")
    for context, us in found["full"].items():
        print(f"{context:>8} {us:>10.0f} {found['sparse'][context]:>10.0f}")
    if args.out:
        result = {"kernels": k.cpu_backend(), "cores": os.cpu_count(), "rounds": args.rounds, "us_per_row": found}
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
