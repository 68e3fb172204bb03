"""Runs all studies, some at a time, each in a process of its own with an end to its time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.processes import PATH, REPO

LONGEST_FIRST = ("autoscaling", "dead_pod", "ratio", "growth", "replicas")
LIMIT_S = 3600.0  # of one study


def run_all(out: Path, at_once: int, seed: int, *, smoke: bool = False, limit_s: float = LIMIT_S) -> list[str]:
    """Writes every study's figures and plot to `out`; returns a line for each that has failed."""
    options = ["--seed", str(seed), "--out", str(out), *(["--smoke"] if smoke else [])]
    with ThreadPoolExecutor(at_once) as pool:
        ended = pool.map(lambda name: run_one(name, options, limit_s), LONGEST_FIRST)
        return [line for line in ended if line]


def run_one(name: str, options: Sequence[str], limit_s: float) -> str:
    """Why a study has failed, in a line; empty when it has not."""
    env = os.environ | {"PYTHONPATH": PATH, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"bench.studies.{name}", *options]
    try:
        subprocess.run(command, env=env, cwd=REPO, check=True, timeout=limit_s, stderr=subprocess.PIPE, text=True)
    except subprocess.TimeoutExpired:
        return f"{name} has not ended within {limit_s:.0f} s"
    except subprocess.CalledProcessError as error:
        last = error.stderr.strip().splitlines()[-1:]
        return f"{name} has failed: {''.join(last)}"
    return ""
