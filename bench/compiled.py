"""Compiles a measuring program of bench/native."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]


class CannotMeasure(RuntimeError):
    """What is missing on this machine, in one line."""


def build(name: str, folder: Path, flags: Sequence[str] = (), sources: Sequence[Path] = ()) -> Path:
    """Compiles bench/native/NAME.cpp and `sources` into `folder`; returns the program. Raises CannotMeasure."""
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        raise CannotMeasure("there is no C++ compiler")
    program = folder / name
    source = REPO / "bench" / "native" / f"{name}.cpp"
    command = [compiler, "-std=c++20", "-O3", "-pthread", *flags, str(source), *map(str, sources), "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise CannotMeasure(f"bench/native/{name}.cpp does not compile: {done.stderr[-500:]}")
    return program
