"""What the model says beside what is published, and the document that shows it."""

from __future__ import annotations

import math

import pytest

from bench.planner.document import DOCUMENT, filled
from bench.planner.fits import left_out, on_one_row
from services.cli.planning.profiles import device, link
from services.cli.planning.question import profiles
from services.planner.evidence import Judged, judge, signs, sureness


@pytest.fixture(scope="module")
def judged() -> list[Judged]:
    return judge(profiles())


def test_the_document_shows_what_the_model_says() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert filled(text) == text, "make it anew: python -m bench.planner"


def test_table_7_is_met_within_five_percent(judged: list[Judged]) -> None:
    theory = [one for one in judged if one.row.kind == "theory"]
    assert len(theory) == 15
    assert all(abs(one.error) < 0.05 for one in theory)


def test_one_row_of_table_6_predicts_the_others_within_ten_percent() -> None:
    h800, wire = device("h800"), link("infiniband")
    for number in range(5):
        fit = on_one_row(h800, wire, number)
        assert abs(fit.errors[number]) < 1e-3
        assert max(map(abs, fit.errors)) < 0.10
    assert on_one_row(h800, wire, 0).factors.efficiency == pytest.approx(h800.factors.efficiency, abs=0.01)


def test_a_row_that_was_left_out_of_the_fit() -> None:
    errors = [fit.errors[number] for number, fit in enumerate(left_out(device("h800"), link("infiniband")))]
    assert sum(abs(error) < 0.10 for error in errors) >= 4
    assert max(map(abs, errors)) < 0.15


def test_separating_loses_at_3_to_1_and_wins_at_4_to_1_on_910c(judged: list[Judged]) -> None:
    ascend = [one for one in judged if one.row.relative]
    assert len(ascend) == 4
    assert all(one.right_sign for one in ascend)


def test_sureness_counts_only_rows_that_nothing_was_fitted_on(judged: list[Judged]) -> None:
    tested = [one for one in judged if one.row.kind == "colocated" and one.row.use == "tested"]
    found = sureness(judged, "colocated")
    assert found.tested == len(tested)
    assert found.error == pytest.approx(math.sqrt(sum(one.error**2 for one in tested) / len(tested)))
    right, asked = signs(judged)
    assert 4 <= right <= asked == 6
