"""Marks follow characters through everything that a template does to a string, and are never invented."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.router.requests.marked_json import tojson
from services.router.requests.marked_text import MarkedText, concat, has_own, is_own, marked, marks_of, own_text

# Upper case stands for what the template wrote, lower case for the request; white space and signs occur in both.
OWN = st.text("ABÉß<> \n%,", max_size=6).map(own_text)
REQUEST = st.text("abéx<> \n%,", max_size=6).map(MarkedText)
MIXED = st.lists(st.one_of(OWN, REQUEST), max_size=5).map(concat)

KEEPS_MARKS: dict[str, Callable[[MarkedText, MarkedText], Any]] = {
    "add": lambda text, other: text + other,
    "add to a plain string": lambda text, _: "ab" + text,
    "add a plain string": lambda text, _: text + "ab",
    "multiply": lambda text, _: text * 3,
    "multiply from the left": lambda text, _: 2 * text,
    "slice": lambda text, _: text[1:-1],
    "slice with a step": lambda text, _: text[::-2],
    "index": lambda text, _: text[-1] if text else "",
    "iterate": lambda text, _: list(text),
    "reversed": lambda text, _: list(reversed(text)),
    "join": lambda text, other: text.join([other, "ab", text]),
    "replace": lambda text, other: text.replace("<", other),
    "replace once": lambda text, other: text.replace("<", other, 1),
    "replace by": lambda text, other: text.replace(str.__str__(other) or "<", own_text("NEW")),
    "split": lambda text, _: text.split(),
    "split at": lambda text, _: text.split(","),
    "split once": lambda text, _: text.split(None, 1),
    "rsplit": lambda text, _: text.rsplit(),
    "rsplit once": lambda text, _: text.rsplit(None, 1),
    "rsplit at, once": lambda text, _: text.rsplit(",", 1),
    "splitlines": lambda text, _: text.splitlines(),
    "splitlines with ends": lambda text, _: text.splitlines(True),
    "partition": lambda text, _: text.partition("<"),
    "rpartition": lambda text, _: text.rpartition("<"),
    "strip": lambda text, _: text.strip(),
    "strip characters": lambda text, _: text.strip("aA<"),
    "lstrip": lambda text, _: text.lstrip(),
    "rstrip": lambda text, _: text.rstrip(),
    "removeprefix": lambda text, _: text.removeprefix("<"),
    "removesuffix": lambda text, _: text.removesuffix(">"),
    "ljust": lambda text, _: text.ljust(9, "x"),
    "rjust": lambda text, _: text.rjust(9, "x"),
    "center": lambda text, _: text.center(9, "x"),
    "center in an even width": lambda text, _: text.center(10, "x"),
    "str": lambda text, _: str(text),
    "percent": lambda text, _: own_text("A%sB%%") % (text,),
    "percent of a request's layout": lambda text, other: (MarkedText("a%sb%s") + own_text("C")) % (text, other),
    "percent by name": lambda text, other: own_text("A%(one)sB%(two)s") % {"one": text, "two": other},
}
CHANGES_CASE = ["upper", "lower", "title", "capitalize", "swapcase", "casefold"]


def plainly(text: str) -> str:
    return str.__str__(text)


def strings(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


@pytest.mark.parametrize("operation", KEEPS_MARKS.values(), ids=list(KEEPS_MARKS))
@settings(max_examples=50)
@given(text=MIXED, other=MIXED)
def test_marks_follow_their_characters(
    operation: Callable[[Any, Any], Any], text: MarkedText, other: MarkedText
) -> None:
    plain = operation(plainly(text), plainly(other))
    result = operation(text, other)
    assert result == plain
    for one in strings(result):
        assert len(marks_of(one)) == len(one)
        for character, mark in zip(plainly(one), marks_of(one), strict=True):
            assert not (mark and character in "abéx"), "text of the request became the template's own"
            assert mark or character not in "ABCÉßNEW", "text of the template is no longer its own"


@pytest.mark.parametrize("name", CHANGES_CASE)
@given(text=MIXED)
def test_a_change_of_case_marks_nothing_else(name: str, text: MarkedText) -> None:
    result = getattr(text, name)()
    assert result == getattr(plainly(text), name)()
    assert len(marks_of(result)) == len(result)
    if len(result) == len(text):
        assert marks_of(result) == marks_of(text)
    else:
        assert is_own(text) == is_own(result)
        assert is_own(text) or not has_own(result)


@pytest.mark.parametrize(
    "lost",
    [
        lambda text: text.encode().decode(),
        lambda text: text.translate({65: "Z"}),
        lambda text: text.expandtabs(),
        lambda text: text.zfill(30),
        lambda text: f"{text:>30}",
        lambda text: "-%s" % text,  # noqa: UP031  a plain layout
        lambda text: repr([text]),
        lambda text: "%5.3s" % text,  # noqa: UP031
    ],
    ids=range(8),
)
def test_what_is_not_known_is_text_of_the_request(lost: Callable[[MarkedText], str]) -> None:
    result = lost(own_text("ABC"))
    assert not has_own(result)


def test_a_plain_string_has_no_marks() -> None:
    assert marks_of("ab") == b"\0\0"
    assert marks_of(marked("ab") + own_text("c")) == b"\0\0\1"


VALUES = st.recursive(
    st.one_of(MIXED, st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(MIXED, inner, max_size=3)),
    max_leaves=8,
)


@given(value=VALUES, ensure_ascii=st.booleans(), indent=st.sampled_from([None, 0, 2]), sort_keys=st.booleans())
def test_json_keeps_marks(value: Any, ensure_ascii: bool, indent: int | None, sort_keys: bool) -> None:
    result = tojson(value, ensure_ascii=ensure_ascii, indent=indent, sort_keys=sort_keys)
    assert result == json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, sort_keys=sort_keys)
    for character, mark in zip(plainly(result), marks_of(result), strict=True):
        assert not (mark and character == "x")
        assert mark or character not in "AB"


def test_an_empty_string_of_a_request_lends_no_marks() -> None:
    assert marks_of(tojson(["", own_text("A")])) == b"\0\0\0\0\0\1\1\1\0"


def test_json_with_a_separator_that_looks_like_a_string_loses_marks() -> None:
    value = {"a": own_text("B"), "c": own_text("D")}
    assert not has_own(tojson(value, separators=('"', ":")))
    assert has_own(tojson(value, separators=(",", ":")))
