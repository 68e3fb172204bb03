"""The benchmarks of faults, each in a tiny form."""

from __future__ import annotations

import re

import pytest
from support.shell import Shell

pytestmark = pytest.mark.processes


def test_bench_of_restarts(shell: Shell) -> None:
    output = shell.run("python", "-m", "bench.restarts", "--smoke")
    for phase in ("imports", "serving", "in all", "longest stall"):
        row = re.search(rf"^\| {phase}, s ((?:\| [0-9.]+ )+)\|", output, re.MULTILINE)
        assert row is not None, output
        assert len(row[1].split("|")) == 6
    assert "an attention worker" in output


def test_simulation_of_the_protocol(shell: Shell) -> None:
    output = shell.run("make", "simulation", "N=60", "SIMULATION=--seed 3 --processes 2")
    assert re.search(r'"schedules": 60,.*"seed": 3,.*"violations": 0,', output, re.DOTALL), output
