"""Rejections of direct calls: at once while there are few, later while a crowd is rejected."""

from services.attention_worker.paced_rejections import AT_ONCE, MOST_S, RATE_PER_S, PacedRejections


def test_few_rejections_are_sent_at_once() -> None:
    pace = PacedRejections()
    assert [pace.delay_s(100.0) for _ in range(AT_ONCE)] == [0.0] * AT_ONCE


def test_a_crowd_is_rejected_at_the_rate() -> None:
    pace = PacedRejections()
    late = [pace.delay_s(100.0) for _ in range(AT_ONCE + 32)][-32:]
    assert all(abs(delay - (place + 1) / RATE_PER_S) < 1e-6 for place, delay in enumerate(late))


def test_no_rejection_waits_longer_than_the_most_and_a_pause_clears_all() -> None:
    pace = PacedRejections()
    assert max(pace.delay_s(100.0) for _ in range(10_000)) == MOST_S
    assert pace.delay_s(100.0 + MOST_S + 2 * AT_ONCE / RATE_PER_S) == 0.0
