"""`python -m bench.gpu.tune` measures tile candidates, for the table in caracal_kernels/triton/tiles.py.

For each product it prints the best tile for few rows, the best for many, the number of rows from which the second is
faster, and whether both give the same bits. Only then can a kernel choose by rows: every process checks this on its
device at start (caracal_kernels/triton/tile_invariance.py), and otherwise uses the first tile for all rows.
"""

from __future__ import annotations

import argparse
import sys
import time

from bench.gpu.main import prepared


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu.tune", description="Measures tile candidates of each product."
    )
    parser.add_argument("--dry", action="store_true", help="tiny sizes on the CPU: nothing is measured")
    parser.add_argument("--seconds", type=float, default=480.0, help="time for all products together")
    given = parser.parse_args(arguments)
    bench = prepared(given.dry)
    if bench is None:
        print("tune: no GPU that torch can use on this machine; nothing is measured")
        return 2
    from bench.gpu.tuning import advice, products, try_all

    began_s, count = time.monotonic(), len(bench.sizes.linear) + 4
    for number, product in enumerate(products(bench), 1):
        tried = try_all(bench, product, began_s + given.seconds * number / count)
        print("\n".join(advice(product, tried, bench.sizes.tune_rows, bench.dry)), flush=True)
    if bench.dry:
        print("dry run: nothing was measured, so the tiles are not ranked")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
