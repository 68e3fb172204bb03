"""LongCat's tags in replies are parsed the same, wherever the text deltas are cut, as tokens and as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.parsed_output import FORMS, SCHEMAS, Form, Parsed, join, spelled

from services.router.gateway.output_parser import Delta, OutputParser
from services.router.gateway.output_tags import END_THINK, END_TOOL, TAGS, THINK, TOOL
from services.router.gateway.tool_calls import ToolDelta
from services.router.requests.text import Tag

ARGUMENTS = '{"text": "a } \\" { b", "count": [1, {"x": 2}]}'
CALL = f'{TOOL}\n{{"name": "get", "arguments": {ARGUMENTS}}}\n{END_TOOL}'
SWAPPED = f'{TOOL}{{"arguments": {{"count": 1}}, "name": "get"}}{END_TOOL}'
XML = (
    f"{TOOL}get\n<longcat_arg_key>text</longcat_arg_key>\n<longcat_arg_value>12</longcat_arg_value>\n"
    f'<longcat_arg_key>count</longcat_arg_key><longcat_arg_value>{{"a": [1]}}</longcat_arg_value>\n{END_TOOL}'
)
GET = ("get", ARGUMENTS)


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> Form:
    return FORMS[request.param]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain < text <longcat is", ("plain < text <longcat is", "", [])),
        (" spaces \n kept \n", (" spaces \n kept \n", "", [])),
        (f"Look:\n{CALL}", ("Look:\n", "", [GET])),
        (f" \n{CALL}\n", (" \n", "", [GET])),
        (f"before {CALL}\nand after", ("before \nand after", "", [GET])),
        (f"a {CALL}\n{CALL}\n\nb \n", ("a \n\n\nb \n", "", [GET, GET])),
        (f"a {CALL}\nb {CALL}\n \n", ("a \nb ", "", [GET, GET])),
        (
            f"{CALL}\n{SWAPPED}{XML}",
            ("", "", [GET, ("get", '{"count": 1}'), ("get", '{"text": "12", "count": {"a": [1]}}')]),
        ),
        (f"{THINK}\nhm\n\nwell\n{END_THINK}\n\nyes {CALL}after", ("yes after", "hm\n\nwell", [GET])),
        (f"{THINK}hm{END_THINK}\n{CALL}", ("", "hm", [GET])),
        (f"{THINK}never closed", ("", "never closed", [])),
        (f"{THINK}thought {CALL}", ("", f"thought {CALL}", [])),
        (f"{THINK}I could {CALL}\n{END_THINK}\nNo.", ("No.", f"I could {CALL}", [])),
        (f"{THINK}{THINK} \n{THINK}hm{END_THINK}4", ("4", "hm", [])),
        (f"{THINK}hm{END_THINK}4{THINK}{THINK}hm{END_THINK}5", ("45", "hmhm", [])),
        (f"{TOOL}garbage {{{END_TOOL}!", (f"{TOOL}garbage {{{END_TOOL}!", "", [])),
        (f"{TOOL}some prose{END_TOOL} {CALL}", (f"{TOOL}some prose{END_TOOL} ", "", [GET])),
        (f"Look:\n{TOOL}garbage {{ {CALL}", (f"Look:\n{TOOL}garbage {{ ", "", [GET])),
        (f'{TOOL}{{"name": 5}}', (f'{TOOL}{{"name": 5}}', "", [])),
        (f'{TOOL}{{"name": 5}} {CALL}', (f'{TOOL}{{"name": 5}} ', "", [GET])),
        (f'{TOOL}\n{{"name": "get", "arguments": {{"text": "cut', ("", "", [("get", '{"text": "cut')])),
        (f"{TOOL} \n{TOOL}{CALL}", ("", "", [GET])),
        (f"{TOOL}{END_TOOL}", (f"{TOOL}{END_TOOL}", "", [])),
        (
            f'{TOOL}{{"name": "get", "arguments": {{"a": 1}}}}{TOOL}get{END_TOOL}',
            ("", "", [("get", '{"a": 1}'), ("get", "{}")]),
        ),
    ],
    ids=range(24),
)
def test_every_cut_is_parsed_the_same(form: Form, text: str, expected: Parsed) -> None:
    assert form.parse_text(text) == expected


def test_a_prompt_that_opens_the_reasoning(form: Form) -> None:
    assert form.parse_text(f"I think\n{END_THINK}\n4", reasoning=True) == ("4", "I think", [])
    assert form.parse_text(f"{THINK}I think\n{END_THINK}\n4", reasoning=True) == ("4", "I think", [])


def test_without_tools_their_tags_are_text(form: Form) -> None:
    assert form.parse_text(CALL + XML, tools=False) == (CALL + XML, "", [])


def test_where_tags_are_tokens_text_that_reads_like_one_is_text() -> None:
    text = "".join(f"{spelled(tag)} " for tag in TAGS)
    plain = text.replace("\x02", "<")
    assert FORMS["tokens"].parse_text(text) == (plain, "", [])
    assert FORMS["tokens"].parse_text(f"{THINK}{text}{END_THINK}x{text}") == (f"x{plain}", plain.strip(), [])
    assert FORMS["tokens"].parse_text(f"{TOOL}get{spelled(END_TOOL)}{END_TOOL}")[0] == f"{TOOL}get{END_TOOL}{END_TOOL}"


def test_a_tokenizer_that_has_only_some_tags() -> None:
    parser = OutputParser(SCHEMAS, tokens=[TOOL, END_TOOL])
    parts = [*parser.push("<longcat_th"), *parser.push(f"ink>hm{END_THINK}{TOOL}4"), *parser.finish()]
    assert parts == [Delta("reasoning", "hm"), Delta("content", f"{TOOL}4")]
    parser = OutputParser(SCHEMAS, tokens=[TOOL, END_TOOL])
    assert [*parser.push("<longcat_th"), *parser.push(TOOL, [Tag(0, TOOL)])] == [Delta("content", "<longcat_th")]


TAG_OR_TEXT = st.one_of(st.sampled_from([*TAGS, *map(spelled, TAGS)]), st.text('ab<>{}":,\\ \n', max_size=6))


@given(
    st.lists(st.one_of(TAG_OR_TEXT, st.sampled_from([CALL, XML, CALL[:-30]])), max_size=12), st.booleans(), st.data()
)
def test_random_texts_do_not_depend_on_the_cut(parts: list[str], end: bool, data: st.DataObject) -> None:
    for form in FORMS.values():
        units = form.units("".join(parts))
        cuts = sorted(data.draw(st.lists(st.integers(0, len(units)), max_size=6)))
        deltas = [join(units[a:b]) for a, b in zip([0, *cuts], [*cuts, len(units)], strict=True)]
        assert form.parse(deltas, cut=end) == form.parse(units, cut=end)


def test_arguments_stream_before_the_call_is_complete() -> None:
    parser = OutputParser(SCHEMAS)
    begun = parser.push(f'{TOOL}\n{{"name": "get", "arguments": {{"text": "lo')
    assert [(delta.tool.name, delta.tool.arguments) for delta in begun if delta.tool] == [
        ("get", ""),
        (None, '{"text": "lo'),
    ]
    assert parser.push("ng") == [Delta("tool", tool=ToolDelta(0, "ng"))]


def test_no_part_of_a_tag_is_shown(form: Form) -> None:
    parser = OutputParser(SCHEMAS, tokens=TAGS if form.tokens else ())
    shown = ""
    for unit in form.units(f"a {CALL} b {XML}c {THINK}d{END_THINK}e"):
        for delta in parser.push(unit.text, unit.tags):
            shown += delta.text
            assert "longcat" not in shown
            assert not shown.endswith("<")


def test_prose_about_a_tag_streams(form: Form) -> None:
    parser = OutputParser(SCHEMAS, tokens=TAGS if form.tokens else ())
    units = form.units(f"Write {TOOL} and then a name, and")
    shown = [delta.text for unit in units for delta in parser.push(unit.text, unit.tags)]
    assert "".join(shown) == f"Write {TOOL} and then a name, and"


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize(
    "text",
    [
        TOOL + '{"name": "' * 2_000 + "<" * 10_000 + "<longcat_think" * 2_000,
        (TOOL + "{" + '"' + END_TOOL) * 500,
        (TOOL + "get<longcat_arg_key>text<longcat_arg_value>a" + END_TOOL) * 500,
        (TOOL + '{"name": "get", "arguments": {"a": "' + END_TOOL) * 500,
        TOOL + "get<longcat_arg_key>text<longcat_arg_value>" + " " * 10_000 + "\\" * 10_000,
        f"{THINK}a{' ' * 10_000}{END_THINK}{TOOL}get{END_TOOL}{' ' * 10_000}b",
        (THINK + END_THINK) * 750,
    ],
    ids=range(7),
)
@pytest.mark.timeout(5)
def test_hostile_texts_take_linear_time(form: Form, text: str, size: int) -> None:
    units = form.units(text)
    form.parse([join(units[i : i + size]) for i in range(0, len(units), size)])
