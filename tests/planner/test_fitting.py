"""Factors are found again from latencies that the model itself made, and predict other loads."""

from __future__ import annotations

import pytest

from services.cli.planning.profiles import device, link
from services.planner.families import FLASH_LITE
from services.planner.fitting import FACTORS, fit, with_factors
from services.planner.one_machine import Point, step
from services.planner.shape import Shape, mla


def shape(layers: int, hidden: int, experts: int) -> Shape:
    return Shape(
        name="small",
        layers=layers,
        hidden=hidden,
        vocabulary=4096,
        attention=mla(hidden, 8, q_rank=64, kv_rank=64, nope=16),
        experts=experts,
        zero=experts // 2,
        top_k=6,
        expert_ffn=hidden // 2,
        sublayers=2,
        dense_ffn=2 * hidden,
        shortcut=True,
    )


def test_factors_predict_loads_that_they_were_not_fitted_on() -> None:
    truth = {name: start * 1.7 if name != "efficiency" else 0.7 for name, (start, _, _) in FACTORS.items()}
    cpu, wire = device("cpu"), link("loopback")
    real, real_wire = with_factors(cpu, wire, truth)
    points = [Point(shape(*size), streams, workers) for size in ((4, 128, 32), (12, 64, 64), (3, 512, 16))
              for streams in (1, 8, 32) for workers in (1, 3)]  # fmt: skip
    found = fit([(point, step(point, real, real_wire).seconds) for point in points], cpu, wire)
    fitted, fitted_wire = with_factors(cpu, wire, found)
    for point in (Point(shape(28, 96, 128), 16, 2), Point(shape(6, 384, 48), 4, 1), Point(FLASH_LITE, 2, 4)):
        expected = step(point, real, real_wire).seconds
        assert step(point, fitted, fitted_wire).seconds == pytest.approx(expected, rel=0.10)
