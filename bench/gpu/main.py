"""`python -m bench.gpu.main` runs every section on the GPU within a time budget; prints and writes the table.

Exits with 2 without a GPU, and with 1 when a case failed. `--dry` runs every path once at tiny sizes on the CPU, in
Triton's interpreter, and prints and writes no times.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.gpu.bench import Bench, Case
    from bench.gpu.report import Report

RESULTS = Path(__file__).resolve().parent.parent / "results"
# Seconds of each section; unused ones go to the next section.
SECTIONS = {"ceilings": 20.0, "experts": 160.0, "decode": 100.0, "layer slice": 130.0, "determinism": 110.0}
Cases = Callable[["Bench"], Iterator["Case"]]


def options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench-gpu", description="Measures the GPU kernels and a layer slice.")
    parser.add_argument("--dry", action="store_true", help="tiny sizes on the CPU: nothing is measured")
    parser.add_argument(
        "--only", choices=sorted(SECTIONS), action="append", help="run only these sections, and always the ceilings"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="factor of the time budget (520 s)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where gpu.json and gpu.md go")
    return parser.parse_args(arguments)


def prepared(dry: bool) -> Bench | None:
    """Returns None without a GPU. Imports torch and triton late: they read the environment when first imported."""
    if dry:
        os.environ.update(CUDA_VISIBLE_DEVICES="", TRITON_INTERPRET="1", CARACAL_KERNELS="triton")
    import torch

    if not dry and not torch.cuda.is_available():
        return None
    import caracal_kernels.triton  # noqa: F401  before triton

    from bench.gpu.bench import Bench
    from bench.gpu.sizes import REAL, TINY
    from bench.gpu.timing import DeviceClock, NoClock

    torch.manual_seed(0)
    if dry:
        return Bench(torch.device("cpu"), TINY, NoClock(), dry=True)
    from caracal_kernels.triton.tile_invariance import row_adaptive_dtypes

    device = torch.device("cuda", torch.cuda.current_device())
    row_adaptive_dtypes(device)  # as every worker does at its start: it decides which tiles our kernels use
    return Bench(device, REAL, DeviceClock())


def sections() -> dict[str, Cases]:
    from bench.gpu import ceilings, decode, determinism, experts
    from bench.gpu.layer_slice import parent as layer_slice

    found = (ceilings, experts, decode, layer_slice, determinism)
    return {module.SECTION: module.cases for module in found}


def run(bench: Bench, report: Report, only: list[str] | None, scale: float, folders: list[Path]) -> None:
    """Fills the report and writes it after each section, so that an aborted run has results."""
    began_s, until_s = time.monotonic(), 0.0
    for name, cases in sections().items():
        if only and name not in (*only, "ceilings"):
            continue
        until_s += scale * SECTIONS[name]
        bench.deadline_s = began_s + until_s
        run_section(bench, report, name, cases)
        release(bench)
        report.write(folders)


def run_section(bench: Bench, report: Report, name: str, cases: Cases) -> None:
    """Runs the cases that begin before the bench's deadline; one that fails does not stop the others."""
    from bench.gpu.bench import SkippedCase, first_line

    try:
        for case in cases(bench):
            if time.monotonic() >= bench.deadline_s:
                report.skipped.append(SkippedCase(name, case.name, "skipped: the section's time is used up"))
                continue
            began_s = time.monotonic()
            try:
                report.add(case.run())
                print(f"{name}: {case.name}: done in {time.monotonic() - began_s:.1f} s", file=sys.stderr, flush=True)
            except Exception as error:  # noqa: BLE001 - a failed case is a result, too
                reason = f"{type(error).__name__}: {first_line(error)}"
                report.skipped.append(SkippedCase(name, case.name, reason, failed=True))
                print(f"{name}: {case.name}: {reason}", file=sys.stderr, flush=True)
            release(bench)
    except Exception as error:  # noqa: BLE001 - preparing a section may fail as well
        report.skipped.append(
            SkippedCase(name, "preparation", f"{type(error).__name__}: {first_line(error)}", failed=True)
        )


def release(bench: Bench) -> None:
    """Returns freed memory to the device, for other processes and other sizes."""
    if bench.device.type == "cuda":
        import torch

        gc.collect()
        torch.cuda.empty_cache()


def main(arguments: list[str]) -> int:
    given = options(arguments)
    bench = prepared(given.dry)
    if bench is None:
        print("bench-gpu: no GPU that torch can use on this machine; nothing is measured")
        return 2
    from bench.gpu.report import Report, machine

    report = Report({} if given.dry else machine())
    folders = [] if given.dry else [given.out]
    run(bench, report, given.only, given.scale, folders)
    if given.dry:
        for row in report.rows:
            error = "" if row.error is None else f", error {row.error:.1g}"
            print(f"{row.section}: {row.case}: ran{error}; baseline: {row.baseline or '-'}")
        for skipped in report.skipped:
            print(f"{skipped.section}: {skipped.case}: {'FAILED' if skipped.failed else 'skipped'}: {skipped.reason}")
        print(f"dry run: {len(report.rows)} rows, {len(report.skipped)} cases skipped; nothing was measured")
    else:
        print(report.markdown())
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
