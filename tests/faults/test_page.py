"""docs/faults.md has the results that are in bench/results."""

from __future__ import annotations

import pytest
from faults.page import PAGE, filled


def test_the_page_has_the_results() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert filled(text) == text, "run `make faults-page`"


def test_a_page_without_a_place_for_a_result_is_said_to_be_one() -> None:
    with pytest.raises(ValueError, match="no marks of faults"):
        filled("# Faults")
