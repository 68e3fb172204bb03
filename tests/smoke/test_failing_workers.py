"""The benchmark of failing workers, links and nodes, in a tiny form."""

from __future__ import annotations

import json
import os

import pytest
from support.shell import Shell

pytestmark = pytest.mark.processes

KINDS = ["expert-stopped", "expert-late", "attention-frozen", "experts-killed"]


def test_bench_of_stalls(shell: Shell) -> None:
    out = shell.folder / "build" / "stalls"
    kinds = KINDS + ["node-cut"] * (os.geteuid() == 0)  # it makes network namespaces
    printed = shell.run("python", "-m", "bench.stalls", "--smoke", "--kinds", *kinds, "--out", str(out))
    assert "an expert worker is stopped" in printed
    found = json.loads((out / "stalls.json").read_text())["kinds"]
    assert sorted(found) == sorted(kinds)
    for one in found.values():
        assert one["rounds"] == 1
        assert all(0 < one["stall_ms"][arm]["max"] < 60_000 for arm in ("without", "with"))
        assert (one["lost"], one["changed"]) == (0, 0), one
    assert found["experts-killed"]["serves_again_s"][0] > 0
    assert (out / "stalls.md").exists()
