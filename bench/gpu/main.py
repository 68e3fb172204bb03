"""`python -m bench.gpu.main`: every section on the GPU at hand, within a time budget; prints and writes the table.

Without a GPU it measures nothing and ends with 2. `--dry` runs every path once at tiny sizes on the CPU, in Triton's
interpreter, and neither prints nor writes a time. Ends with 1 when a case failed.
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
# Seconds of each; what one leaves over is the next one's.
SECTIONS = {"ceilings": 20.0, "experts": 160.0, "decode": 100.0, "layer slice": 130.0, "determinism": 110.0}
Cases = Callable[["Bench"], Iterator["Case"]]


def options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench-gpu", description="Measures the GPU kernels and a layer slice.")
    parser.add_argument("--dry", action="store_true", help="tiny sizes on the CPU: nothing is measured")
    parser.add_argument("--only", choices=sorted(SECTIONS), action="append", help="these sections; ceilings always")
    parser.add_argument("--scale", type=float, default=1.0, help="of the time budget (520 s)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where gpu.json and gpu.md go; also into $OUT")
    return parser.parse_args(arguments)


def prepared(dry: bool) -> Bench | None:
    """None without a GPU. What the environment says is read when torch and triton are first imported."""
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
    row_adaptive_dtypes(device)  # as every worker does at its start: it decides which tiles are ours
    return Bench(device, REAL, DeviceClock())


def sections() -> dict[str, Cases]:
    from bench.gpu import ceilings, decode, determinism, experts
    from bench.gpu.layer_slice import parent as layer_slice

    found = (ceilings, experts, decode, layer_slice, determinism)
    return {module.SECTION: module.cases for module in found}


def run(bench: Bench, report: Report, only: list[str] | None, scale: float, folders: list[Path]) -> None:
    """Fills the report, and writes what there is after each section: a run that is ended leaves that behind."""
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
    """A case begins only before the bench's deadline; one that fails does not end the others."""
    from bench.gpu.bench import Left, first_line

    try:
        for case in cases(bench):
            if time.monotonic() >= bench.deadline_s:
                report.left.append(Left(name, case.name, "skipped: the section's time was over"))
                continue
            began_s = time.monotonic()
            try:
                report.add(case.run())
                print(f"{name}: {case.name}: done in {time.monotonic() - began_s:.1f} s", file=sys.stderr, flush=True)
            except Exception as error:  # noqa: BLE001 - the edge of a case: a failure is a result, too
                reason = f"{type(error).__name__}: {first_line(error)}"
                report.left.append(Left(name, case.name, reason, failed=True))
                print(f"{name}: {case.name}: {reason}", file=sys.stderr, flush=True)
            release(bench)
    except Exception as error:  # noqa: BLE001 - what a section prepares may fail as well
        report.left.append(Left(name, "preparation", f"{type(error).__name__}: {first_line(error)}", failed=True))


def release(bench: Bench) -> None:
    """Gives freed memory back to the device: other processes need it, and other sizes."""
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
    folders = [] if given.dry else [given.out, *([Path(os.environ["OUT"])] if os.environ.get("OUT") else [])]
    run(bench, report, given.only, given.scale, folders)
    if given.dry:
        for row in report.rows:
            error = "" if row.error is None else f", error {row.error:.1g}"
            print(f"{row.section}: {row.case}: ran{error}; alternative: {row.rival or '-'}")
        for left in report.left:
            print(f"{left.section}: {left.case}: {'FAILED' if left.failed else 'left out'}: {left.reason}")
        print(f"dry run: {len(report.rows)} rows, {len(report.left)} cases without; nothing was measured")
    else:
        print(report.markdown())
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
