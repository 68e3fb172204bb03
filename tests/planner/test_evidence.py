"""What the model says beside what is published, and the document that shows it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from bench.planner.document import DOCUMENT, filled
from bench.planner.fits import left_out, on_one_row, on_plug_in
from services.cli.planning.profiles import device, link
from services.cli.planning.question import profiles
from services.planner.evidence import Judged, decisive, judge, signs, sureness
from services.planner.rows import Kind, Row, Use


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


def test_910c_is_fitted_on_all_rows_of_the_plug_in() -> None:
    found, kept = on_plug_in(profiles()), device("910c")
    for name in ("efficiency", "overlap_loss", "op_s"):
        assert getattr(found.factors, name) == pytest.approx(getattr(kept.factors, name))
    assert found.index_bytes_s == pytest.approx(kept.index_bytes_s)


def test_sureness_counts_only_rows_that_nothing_was_fitted_on(judged: list[Judged]) -> None:
    tested = [one for one in judged if one.row.kind == "colocated" and one.row.use == "tested"]
    found = sureness(judged, "colocated")
    assert found.tested == len(tested)
    mean = sum(math.log(one.predicted / one.row.published) ** 2 for one in tested) / len(tested)
    assert found.typical == pytest.approx(math.exp(math.sqrt(mean)))


def test_signs_are_counted_apart_by_use(judged: list[Judged]) -> None:
    assert signs(judged, "fitted") == (4, 4)
    assert signs(judged, "tested")[1] == 2


def made(predicted: float, published: float, kind: Kind = "gain of separating", use: Use = "tested") -> Judged:
    row = Row("made up", "", "times", published, kind, use, lambda _: predicted)
    return Judged(row, predicted, predicted / published - 1)


def test_half_and_twice_of_the_truth_are_as_far_off() -> None:
    assert sureness([made(1, 2), made(2, 1)], "gain of separating").typical == pytest.approx(2)
    percent = replace(made(-50, 100), row=replace(made(-50, 100).row, relative=True))
    assert percent.log_ratio == pytest.approx(-math.log(4))


def test_only_an_error_that_would_undo_the_answer_counts() -> None:
    """Gains that were too small say nothing against separate pools; rates that were off say something against both."""
    small = [made(1, 2), made(1.1, 1)]
    assert decisive(small, apart=False) == pytest.approx(2)
    assert decisive(small, apart=True) == pytest.approx(1.1)
    rates = [made(1.3, 1, "separate"), made(1, 1.4, "colocated")]
    floor = math.exp(math.hypot(math.log(1.3), math.log(1.4)))
    assert decisive([*small, *rates], apart=True) == pytest.approx(floor)
    assert decisive([*small, made(9, 1, use="fitted")], apart=True) == pytest.approx(1.1)


def test_constants_that_were_chosen_by_hand_count_as_a_fit(judged: list[Judged]) -> None:
    """None of the rows whose own figures a factor, a link or a constant was chosen by is called a test."""
    tested = [one.row for one in judged if one.row.use == "tested"]
    assert not [row.name for row in tested if "Table 6" in row.source and row.name.startswith("LongCat")]
    assert not [row.name for row in tested if "xDeepServe" in row.source]
