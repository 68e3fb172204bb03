"""Collects rows and writes them: `gpu.json` with all data, `gpu.md` with the table."""

from __future__ import annotations

import json
import math
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path

import torch
import triton
from caracal_kernels.triton.tile_invariance import row_adaptive_dtypes

from bench.gpu.bench import Row, SkippedCase, milliseconds

HEAD = "| case | time | of its ceiling | goal | fastest baseline | ours is faster by | error | |"
RULE = "|---|---|---|---|---|---|---|---|"
NOTES = {
    "layer slice": "Decode steps without the sampler. Attention and experts are two processes on one GPU, where their "
    "kernels share the GPU: on separate GPUs the shortcut hides more.",
    "determinism": "The baseline is the fastest setting of the same kernels that gives other bits than ours: below "
    "1 × is the cost of invariance.",
}


@dataclass
class Report:
    """The results of a run."""

    machine: dict[str, str]
    rows: list[Row] = field(default_factory=list)
    skipped: list[SkippedCase] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        return any(one.failed for one in self.skipped)

    def add(self, found: Sequence[Row | SkippedCase]) -> None:
        self.rows += [one for one in found if isinstance(one, Row)]
        self.skipped += [one for one in found if isinstance(one, SkippedCase)]

    def write(self, folders: list[Path]) -> None:
        rows = [asdict(row) | {"share": row.share} for row in self.rows]
        data = _without_nan({"machine": self.machine, "rows": rows, "skipped": [asdict(one) for one in self.skipped]})
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "gpu.json").write_text(json.dumps(data, indent=2, allow_nan=False) + "\n")
            (folder / "gpu.md").write_text(self.markdown())

    def markdown(self) -> str:
        lines = [", ".join(self.machine.values())]
        for section, rows in groupby(self.rows, key=lambda row: row.section):
            lines += ["", f"**{section}** {NOTES.get(section, '')}".rstrip(), "", HEAD, RULE, *map(_line, rows)]
        if self.skipped:
            lines += ["", "Not measured:", ""]
            lines += [f"- {x.section}, {x.case}: {'failed: ' if x.failed else ''}{x.reason}" for x in self.skipped]
        return "\n".join(lines) + "\n"


def machine() -> dict[str, str]:
    """Returns the GPU and the software versions, for the table's first line."""
    return {
        "device": torch.cuda.get_device_name(),
        "driver": f"driver {_driver()}",
        "torch": f"torch {torch.__version__}",
        "triton": f"triton {triton.__version__}",
        "cuda": f"CUDA {torch.version.cuda}",
        "tiles by rows": f"tiles by rows: {', '.join(row_adaptive_dtypes(_here())) or 'none'}",
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _here() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device())


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown"


def _line(row: Row) -> str:
    share, goal = "", ""
    if math.isfinite(row.share):
        share = f"{100 * row.share:.1f} % of {row.bound}"
    if row.goal is not None:
        goal = f"{100 * row.goal:.0f} %" + (", **missed**" if row.share < row.goal else "")
    ratio = row.baseline_s / row.seconds
    baseline = f"{row.baseline}, {milliseconds(row.baseline_s)}" if math.isfinite(row.baseline_s) else row.baseline
    gain = f"{ratio:.2f} ×" if math.isfinite(ratio) else ""
    error = "" if row.error is None else f"{row.error:.1g}"
    note = row.note or _achieved(row)
    cells = row.case, milliseconds(row.seconds), share, goal, baseline, gain, error, note
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _achieved(row: Row) -> str:
    rates = [f"{row.bytes / row.seconds / 1e12:.2f} TB/s"] if row.bytes else []
    rates += [f"{row.flops / row.seconds / 1e12:.0f} TFLOP/s"] if row.flops else []
    return ", ".join(rates)


def _without_nan(value: object) -> object:
    """Replaces NaN, which JSON does not have, by None."""
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
