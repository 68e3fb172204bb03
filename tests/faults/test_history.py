"""The checker of histories finds what is wrong, that of footprints what is left behind."""

from __future__ import annotations

import pytest
from faults.footprint import Footprint, leaks
from faults.history import Answer, Oracle

RIGHT = Oracle([5, 6, 7], [50, 60, 70], end="length", counts=(2, 3))


def answer(
    *tokens: tuple[int, int, int],
    endings: tuple[str, ...] = ("length",),
    error: str = "",
    counts: tuple[tuple[int, int], ...] = ((2, 3),),
) -> Answer:
    made = Answer(RIGHT, 0.0)
    for second, token in enumerate(tokens, 1):
        made.token(*token, float(second))
    for ending in endings:
        made.ending(ending)
    for prompt, completion in counts:
        made.usage(prompt, completion)
    made.error = error
    return made


WHOLE = ((0, 5, 50), (1, 6, 60), (2, 7, 70))


def test_a_right_answer() -> None:
    assert answer(*WHOLE).verdict() == ""
    assert answer(*WHOLE).pauses(1.5, 1.6) == [1.0]
    assert answer(*WHOLE).pauses(0.0, 9.0) == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (answer(*WHOLE[:2]), "changed: it ends after 2 of 3"),
        (answer(*WHOLE[:2], endings=()), "lost: it has no ending"),
        (answer(*WHOLE[:1], endings=(), error="UNAVAILABLE"), "lost: UNAVAILABLE"),
        (answer(WHOLE[0], WHOLE[2]), "changed: token 2 comes where 1 is due"),
        (answer(WHOLE[0], WHOLE[0], *WHOLE[1:]), "changed: token 0 comes where 1 is due"),
        (answer(WHOLE[0], (1, 6, 61), WHOLE[2]), "changed: token 1 is 6 (61) instead of 6 (60)"),
        (answer(*WHOLE, (3, 8, 80)), "changed: token 3 is one too many"),
        (answer(*WHOLE, endings=("length", "length")), "changed: it ends twice"),
        (answer(*WHOLE, endings=("stop",)), "changed: it ends with stop instead of length"),
        (answer(*WHOLE, counts=((2, 4),)), "changed: it has (prompt, answer) (2, 4) tokens instead of (2, 3)"),
        (answer(*WHOLE, counts=()), "changed: it has (prompt, answer) None tokens instead of (2, 3)"),
        (answer(*WHOLE, counts=((2, 3), (2, 3))), "changed: it says twice"),
    ],
)
def test_a_wrong_answer(made: Answer, why: str) -> None:
    assert made.verdict().startswith(why)


CALL = Oracle([5], [-0.5], {"name of call 0": "weather", "arguments of call 0": "{}"}, "tool_calls")


def call(*pieces: tuple[str, str], end: str = "tool_calls") -> Answer:
    made = Answer(CALL, 0.0)
    made.token(0, 5, -0.5, 1.0)
    for part, piece in pieces:
        made.text(part, piece, 2.0)
    made.ending(end)
    return made


NAME, FIRST, SECOND = ("name of call 0", "weather"), ("arguments of call 0", "{"), ("arguments of call 0", "}")


def test_a_right_call() -> None:
    assert call(NAME, FIRST, SECOND).verdict() == ""


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (call(NAME, FIRST), "changed: it ends before its arguments of call 0 does"),
        (call(NAME, FIRST, FIRST), "changed: arguments of call 0 goes on with '{'"),
        (call(NAME, FIRST, SECOND, ("content", "x")), "changed: content goes on with 'x'"),
        (call(NAME, FIRST, SECOND, end="stop"), "changed: it ends with stop instead of tool_calls"),
    ],
)
def test_a_wrong_call(made: Answer, why: str) -> None:
    assert made.verdict() == why


def test_what_is_left_behind_is_named() -> None:
    before = {"a": Footprint({"threads": 10, "sessions": 2}), "b": Footprint({"threads": 10, "sessions": 2})}
    assert leaks(before, before) == []
    after = {"a": Footprint({"threads": 18, "sessions": 2}), "b": Footprint({"threads": 19, "sessions": 3})}
    assert leaks(before, after) == ["b: threads 10, then 19", "b: sessions 2, then 3"]
