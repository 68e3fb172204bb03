"""Who is wrong when two workers give different bits, and when that is a conviction."""

from __future__ import annotations

from collections.abc import Mapping

from services.membership.strikes import CONVICTS, WINDOW_S, Strikes, outvoted
from services.router.dispatch.shadow_share import ALL, ShadowShare, mixed


def decided(used: tuple[str, int], again: tuple[str, int], third: list[str], says: Mapping[str, int | None]) -> str:
    """Who is wrong if workers say that when they are asked again; empty for nobody."""
    votes = outvoted(used, again, third)
    try:
        asked = next(votes)
        while True:
            asked = votes.send(says[asked])
    except StopIteration as end:
        return end.value or ""


def test_a_third_worker_decides() -> None:
    assert decided(("a", 1), ("b", 2), ["c"], {"c": 1}) == "b"
    assert decided(("a", 1), ("b", 2), ["c"], {"c": 2}) == "a"
    assert decided(("a", 1), ("b", 2), ["c", "d"], {"c": None, "d": 2}) == "a"


def test_without_a_third_one_who_contradicts_itself_is_wrong() -> None:
    assert decided(("a", 1), ("b", 2), [], {"a": 2, "b": 2}) == "a"
    assert decided(("a", 1), ("b", 2), [], {"a": 1, "b": 1}) == "b"
    assert decided(("a", 1), ("a", 2), ["c"], {}) == "a"


def test_nobody_is_wrong_where_nobody_can_say() -> None:
    assert not decided(("a", 1), ("b", 2), [], {"a": 1, "b": 2})
    assert not decided(("a", 1), ("b", 2), [], {"a": 3, "b": 4})
    assert not decided(("a", 1), ("b", 2), ["c"], {"c": 3, "a": None, "b": None})


def test_enough_strikes_within_the_window_convict() -> None:
    strikes: Strikes[str] = Strikes()
    assert not strikes.add("a", 0.0)
    assert not strikes.others("a", 0.0)
    assert strikes.others("b", 0.0)
    assert not strikes.add("a", WINDOW_S + 1), "the first one is too long ago"
    assert strikes.add("a", WINDOW_S + 2)
    assert CONVICTS == 2
    strikes.keep_only(frozenset({"b"}))
    assert not strikes.add("a", WINDOW_S + 3)


def test_a_hash_chooses_the_share_and_no_layer_or_step_is_left_out() -> None:
    share = ShadowShare(0.01)
    chosen = [(step, layer) for step in range(5000) for layer in range(28) if share.takes(step, layer)]
    assert abs(len(chosen) / (5000 * 28) - 0.01) < 0.001
    assert {layer for _, layer in chosen} == set(range(28))
    assert {step % 16 for step, _ in chosen} == set(range(16))
    assert 0 <= mixed(7, 3) < ALL
    share.raise_to_all(True)
    assert share.takes(1, 1)
    assert share.of_2_32.tolist() == [ALL]
    nothing = ShadowShare(0.0)
    nothing.raise_to_all(True)
    assert not nothing.takes(1, 1)
    assert nothing.of_2_32.tolist() == [0]
