"""LongCat's tags in replies are parsed the same, wherever the text deltas are cut."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.gateway.output_parser import TAGS, Delta, OutputParser
from services.router.gateway.tool_calls import read_xml_call

SCHEMAS = {"get": {"properties": {"text": {"type": "string"}, "count": {"type": "integer"}}}}
Calls = list[tuple[str, str]]


def read(text_deltas: list[str], *, tools: bool = True, reasoning: bool = False) -> tuple[str, str, Calls]:
    """Returns (content, reasoning, calls) of a text given in deltas; asserts that nothing shown is taken back."""
    parser = OutputParser(SCHEMAS if tools else None, reasoning=reasoning)
    deltas = [delta for text_delta in text_deltas for delta in parser.push(text_delta)]
    shown = "".join(delta.text for delta in deltas if delta.kind == "content")
    deltas += parser.finish()
    calls: dict[int, list[str]] = {}
    for step in (delta.tool for delta in deltas if delta.tool is not None):
        if step.name is not None:
            assert step.index not in calls
            assert step.call_id is not None
            calls[step.index] = [step.name, ""]
        calls[step.index][1] += step.arguments
    assert list(calls) == list(range(parser.calls))
    content = "".join(delta.text for delta in deltas if delta.kind == "content")
    assert content.startswith(shown)
    thoughts = "".join(delta.text for delta in deltas if delta.kind == "reasoning")
    return content, thoughts, [(name, arguments) for name, arguments in calls.values()]


def every_cut(text: str) -> list[list[str]]:
    return [[text], list(text), *([text[:i], text[i:]] for i in range(1, len(text)))]


ARGUMENTS = '{"text": "a } \\" { b", "count": [1, {"x": 2}]}'
CALL = f'<longcat_tool_call>\n{{"name": "get", "arguments": {ARGUMENTS}}}\n</longcat_tool_call>'
SWAPPED = '<longcat_tool_call>{"arguments": {"count": 1}, "name": "get"}</longcat_tool_call>'
XML = (
    "<longcat_tool_call>get\n<longcat_arg_key>text</longcat_arg_key>\n<longcat_arg_value>12</longcat_arg_value>\n"
    '<longcat_arg_key>count</longcat_arg_key><longcat_arg_value>{"a": [1]}</longcat_arg_value>\n</longcat_tool_call>'
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain < text <longcat is", ("plain < text <longcat is", "", [])),
        (" spaces \n kept \n", (" spaces \n kept \n", "", [])),
        (f"Look:\n{CALL}", ("Look:", "", [("get", ARGUMENTS)])),
        (
            f"{CALL}\n{SWAPPED}{XML}",
            ("", "", [("get", ARGUMENTS), ("get", '{"count": 1}'), ("get", '{"text": "12", "count": {"a": [1]}}')]),
        ),
        (
            f"<longcat_think>\nhm\n\nwell\n</longcat_think>\n\nyes {CALL}after",
            ("yesafter", "hm\n\nwell", [("get", ARGUMENTS)]),
        ),
        ("<longcat_think>never closed", ("", "never closed", [])),
        (f"<longcat_think>thought {CALL}", ("", "thought", [("get", ARGUMENTS)])),
        (
            "<longcat_tool_call>garbage {</longcat_tool_call>!",
            ("<longcat_tool_call>garbage {</longcat_tool_call>!", "", []),
        ),
        ('<longcat_tool_call>{"name": 5}', ('<longcat_tool_call>{"name": 5}', "", [])),
        ('<longcat_tool_call>\n{"name": "get", "arguments": {"text": "cut', ("", "", [("get", '{"text": "cut')])),
        ('<longcat_tool_call>{"name": "get"}</longcat_tool_call>', ("", "", [("get", "{}")])),
    ],
    ids=range(11),
)
def test_every_cut_is_parsed_the_same(text: str, expected: tuple[str, str, Calls]) -> None:
    for text_deltas in every_cut(text):
        assert read(text_deltas) == expected, text_deltas


def test_a_prompt_that_opens_the_reasoning() -> None:
    for text_deltas in every_cut("I think\n</longcat_think>\n4"):
        assert read(text_deltas, reasoning=True) == ("4", "I think", [])


def test_without_tools_their_tags_are_text() -> None:
    assert read([CALL], tools=False) == (CALL, "", [])


@given(st.lists(st.one_of(st.sampled_from(TAGS), st.text('ab<>{}" \n', max_size=6)), max_size=12), st.data())
def test_random_texts_do_not_depend_on_the_cut(parts: list[str], data: st.DataObject) -> None:
    text = "".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    text_deltas = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert read(text_deltas) == read([text])


def test_arguments_stream_before_the_call_is_complete() -> None:
    parser = OutputParser(SCHEMAS)
    begun = parser.push('<longcat_tool_call>\n{"name": "get", "arguments": {"text": "lo')
    assert [(delta.tool.name, delta.tool.arguments) for delta in begun if delta.tool] == [
        ("get", ""),
        (None, '{"text": "lo'),
    ]
    assert parser.push("ng") == [Delta("tool", tool=type(begun[0].tool)(0, "ng"))]  # type: ignore[misc]


def test_xml_values_follow_the_schema() -> None:
    body = XML.removeprefix("<longcat_tool_call>").removesuffix("</longcat_tool_call>")
    read_call = read_xml_call(body, SCHEMAS)
    assert read_call is not None
    assert json.loads(read_call[1]) == {"text": "12", "count": {"a": [1]}}
    assert read_xml_call("get<longcat_arg_key>x", SCHEMAS) is None
    assert read_xml_call("", SCHEMAS) is None


def test_hostile_bodies_take_linear_time() -> None:
    text = "<longcat_tool_call>" + '{"name": "' * 20_000 + "<" * 200_000 + "<longcat_think" * 20_000
    assert read([text[i : i + 1000] for i in range(0, len(text), 1000)])[2] == []
