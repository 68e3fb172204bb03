"""The benchmark of failing expert workers and links, in a tiny form."""

from __future__ import annotations

import re

import pytest
from support.shell import Shell

pytestmark = pytest.mark.processes


def test_bench_of_stalls(shell: Shell) -> None:
    output = shell.run("python", "-m", "bench.stalls", "--smoke", "--kinds", "stopped", "late")
    longest = re.search(r"longest, ms \| ([0-9.]+)[^|]*\| ([0-9.]+) \|", output)
    assert longest is not None
    assert all(0 < float(ms) < 60_000 for ms in longest.groups())
    for what in ("requests lost", "answers changed"):
        assert re.search(rf"{what} \| 0 \(≤ 0 met\) \| 0 \(≤ 0 met\)", output), output
