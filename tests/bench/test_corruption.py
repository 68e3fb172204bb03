"""What the benchmark of corruption says of its trials, and what of its file it keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.corruption.__main__ import FORMAT, PARTS, read
from bench.corruption.cases import CASES
from bench.corruption.damage import BIT, flip
from bench.corruption.in_a_cluster import summary


def trial(seconds: float | None) -> dict[str, Any]:
    return {"seconds": seconds}


@pytest.mark.parametrize(
    ("seconds", "mean_s", "met"),
    [([10.0, 20.0], 15.0, True), ([10.0, None], 10.0, False), ([None], None, False), ([70.0, 81.0], 75.5, False)],
)
def test_a_goal_is_met_where_every_trial_found_it_and_their_mean_is_early(
    seconds: list[float | None], mean_s: float | None, met: bool
) -> None:
    found = summary(CASES["expert-flickers"], [trial(one) for one in seconds])
    assert (found["mean_s"], found["met"]) == (mean_s, met)


def test_parts_of_another_format_are_not_kept(tmp_path: Path) -> None:
    out = tmp_path / "corruption.json"
    assert read(out) == {}
    out.write_text(json.dumps({"format": FORMAT, "parts": {"clean": {"met": True}}}))
    assert read(out) == {"clean": {"met": True}}
    out.write_text(json.dumps({"detection": {}}))
    assert read(out) == {}


def test_the_stored_result_has_parts_that_there_are() -> None:
    stored = read(Path(__file__).parents[2] / "bench" / "results" / "corruption.json")
    assert stored
    assert set(stored) <= set(PARTS)
    assert all(isinstance(part["met"], bool) for part in stored.values())


def test_a_flip_changes_one_bit_and_the_next_one_undoes_it() -> None:
    weights = torch.ones(2, 3, dtype=torch.bfloat16)
    flip(weights, 4)
    bits = weights.view(torch.int16) ^ torch.ones(2, 3, dtype=torch.bfloat16).view(torch.int16)
    assert bits.flatten().tolist() == [0, 0, 0, 0, BIT, 0]
    flip(weights, 4)
    assert torch.equal(weights, torch.ones(2, 3, dtype=torch.bfloat16))
