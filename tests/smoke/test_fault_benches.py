"""The benchmarks of faults, each in a tiny form."""

from __future__ import annotations

import json
import re

import pytest
from support.shell import Shell

pytestmark = pytest.mark.processes


def test_bench_of_restarts(shell: Shell) -> None:
    output = shell.run("python", "-m", "bench.restarts", "--smoke", "--spares", "1")
    assert "## 1 spare: killed" in output
    for phase in ("imports", "serving", "in all", "longest stall"):
        row = re.search(rf"^\| {phase}, s ((?:\| [0-9.]+ )+)\|", output, re.MULTILINE)
        assert row is not None, output
        assert len(row[1].split("|")) == 6
    assert "an attention worker" in output


def test_bench_of_corruption(shell: Shell) -> None:
    out = shell.folder / "build" / "corruption.json"
    parts = ("expert-flipped", "attention-golden", "pages", "wire-expert", "in-process", "clean")
    shell.run("python", "-m", "bench.corruption", "--smoke", "--parts", *parts, "--out", str(out))
    found = json.loads(out.read_text())["parts"]
    assert list(found) == list(parts)
    for name in ("expert-flipped", "attention-golden"):
        (trial,) = found[name]["trials"]
        assert trial["seconds"] > 0, trial
        assert trial["lost"] == 0, trial
    assert found["pages"]["met"], found["pages"]
    assert found["wire-expert"]["met"], found["wire-expert"]
    assert all(kind["mean_calls"] > 0 for kind in found["in-process"]["kinds"].values())
    assert found["clean"]["calls"] >= 200
    assert found["clean"]["differences"] == 0


def test_bench_of_shadow_cost(shell: Shell) -> None:
    out = shell.folder / "build" / "shadow-cost.json"
    shell.run("python", "-m", "bench.shadow_cost", "--smoke", "--out", str(out))
    found = json.loads(out.read_text())
    (streams,) = found["streams"].values()
    assert all(turn["tokens_per_s"] > 0 for turns in streams["turns"].values() for turn in turns)
    assert streams["lost"]["low"] <= streams["lost"]["share"] <= streams["lost"]["high"]
    assert found["checks"]["without"]["caracal_golden_rounds_total"] == 0
    assert found["checks"]["with"]["caracal_golden_rounds_total"] > 0


def test_simulation_of_the_protocol(shell: Shell) -> None:
    output = shell.run("make", "simulation", "N=60", "SIMULATION=--seed 3 --processes 2")
    assert re.search(r'"schedules": 60,.*"seed": 3,.*"violations": 0,', output, re.DOTALL), output
