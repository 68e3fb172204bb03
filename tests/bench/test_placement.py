"""The simulation of placements: EPLB as published, and what the benchmark counts."""

from __future__ import annotations

import numpy as np
import pytest

from bench.placement import eplb
from bench.placement.__main__ import SMOKE, run
from bench.placement.simulation import Traffic, minute, play, summary


def test_replicas_are_those_of_the_published_example() -> None:
    """The first layer of the example in EPLB's README."""
    rows_E = np.array([90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86], dtype=np.float64)
    assert eplb.replica_counts(rows_E, 16).tolist() == [1, 2, 1, 1, 2, 2, 1, 1, 1, 1, 2, 1]


def test_packs_are_even_and_full() -> None:
    rows_E = np.random.default_rng(0).gamma(0.5, 100.0, 30)
    copies_E = eplb.replica_counts(rows_E, 35)
    placed_EW = eplb.pack(rows_E, copies_E, 4)
    assert placed_EW.sum(axis=1).tolist() == copies_E.tolist()
    assert sorted(placed_EW.sum(axis=0).tolist()) == [8, 9, 9, 9]
    load_W = (rows_E / copies_E) @ placed_EW
    assert load_W.max() / load_W.mean() < 1.1


def test_a_minute_is_as_long_as_the_slowest_worker_of_each_layer() -> None:
    placed_LEW = np.array([[[1, 0], [1, 0], [0, 1]], [[1, 1], [0, 1], [1, 0]]])
    rows_LE = np.array([[10.0, 20.0, 30.0], [40.0, 10.0, 10.0]])
    found = minute(placed_LEW, rows_LE, np.array([1.0, 0.5]), 0)
    # Layer 0: 30 rows each, the second worker takes 60; layer 1: 30 rows each again. Even: 60 rows at 1.5.
    assert found.step == pytest.approx(60 / 40)
    assert found.balancedness == pytest.approx(40 / 60)


def test_what_is_loaded_counts_what_a_worker_had_not() -> None:
    start_LEW = np.array([[[1, 0], [0, 1]]])
    other_LEW = np.array([[[1, 1], [0, 2]]])
    turns = iter([other_LEW, start_LEW, other_LEW])
    found = play(Traffic(np.ones((3, 1, 2))), 2, start_LEW, lambda *_: next(turns))
    assert [each.loaded for each in found] == [0, 1, 0]
    assert summary(found, 1)["loaded"] == 1


def test_placement_by_load_is_more_even_than_by_counts_and_loads_less_than_eplb() -> None:
    for skews in run(SMOKE).values():
        for skew, policies in skews.items():
            assert policies["by load"]["balancedness"] >= policies["by counts"]["balancedness"], skew
            assert policies["by load"]["loaded"] < policies["EPLB"]["loaded"], skew
