"""The budget of experts that move for their load."""

from __future__ import annotations

import pytest

from services.router.placement.balance_budget import BalanceBudget


def test_it_fills_with_time_up_to_a_minute() -> None:
    budget = BalanceBudget(600.0, 10, now=0.0)
    assert budget.moves(0.0) == 60
    budget.spend(60, 0.0)
    assert [budget.moves(float(now)) for now in (0, 1, 30, 60, 600)] == [0, 1, 30, 60, 60]


def test_loads_that_could_not_wait_overdraw_it_by_a_minute_at_most() -> None:
    budget = BalanceBudget(600.0, 10, now=0.0)
    budget.spend(10_000, 0.0)
    assert [budget.moves(float(now)) for now in (0, 60, 61, 120)] == [0, 0, 1, 60]


@pytest.mark.parametrize(("now", "moves"), [(0.0, 1), (60.0, 2), (600.0, 2)])
def test_experts_larger_than_a_minutes_bytes_move_in_the_end(now: float, moves: int) -> None:
    assert BalanceBudget(15.0, 10, now=0.0).moves(now) == moves
