"""A run that is killed at any moments ends with the bits of one that nobody disturbed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.processes
REPO = Path(__file__).parents[2]
TIMES = {"seconds"}  # what a log may tell differently


def lines(log: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in log.read_text().splitlines()]


def assert_equal(one: Path, other: Path) -> None:
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(other) for path in other.rglob("*") if path.is_file())
    for file in files:
        if file.name == "log.jsonl":
            assert lines(one / file) == lines(other / file)
        elif file.name == "checkpoint.safetensors":
            mine, theirs = load_file(one / file), load_file(other / file)
            assert mine.keys() == theirs.keys()
            assert mine.pop("progress")[0] == theirs.pop("progress")[0]  # the step; behind it are seconds
            assert all(torch.equal(value, theirs[name]) for name, value in mine.items())
        else:
            assert (one / file).read_bytes() == (other / file).read_bytes(), file


def test_twenty_kills_change_no_bit(tmp_path: Path) -> None:
    path = ":".join(str(REPO / folder) for folder in ("", "kernels", "proto", "tests"))
    environment = os.environ | {"PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "support.killed_training", str(tmp_path), "20", "7"]
    subprocess.run(command, env=environment, check=True, timeout=240)
    ended = [folder for folder in tmp_path.iterdir() if folder.name != "alone"]
    assert len(ended) >= 2
    for folder in ended:
        assert_equal(tmp_path / "alone", folder)
