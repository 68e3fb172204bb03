"""Tool arguments in both formats: values and their types, tags within them, and calls that do not come to their end."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.parsed_output import FORMS, SCHEMAS, Form, join, spelled

from services.router.gateway.argument_values import LITERAL_CHARS, LITERAL_DEPTH, typed_value
from services.router.gateway.output_parser import OutputParser
from services.router.gateway.output_tags import END_KEY, END_TOOL, END_VALUE, KEY, TAGS, THINK, TOOL, VALUE


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> Form:
    return FORMS[request.param]


def json_call(arguments: str) -> str:
    return f'{TOOL}\n{{"name": "get", "arguments": {arguments}}}\n{END_TOOL}'


def xml_call(**arguments: str) -> str:
    values = "".join(f"{KEY}{key}{END_KEY}\n{VALUE}{value}{END_VALUE}\n" for key, value in arguments.items())
    return f"{TOOL}get\n{values}{END_TOOL}"


QUOTED = f"a call ends with {END_TOOL}, begins with {TOOL} and may have {THINK}, {KEY} or {END_VALUE}"
IN_XML = f"a call is {TOOL}get{KEY}text{END_KEY}{VALUE}x{END_VALUE}{END_TOOL} with {THINK}"


@pytest.mark.parametrize("spell", [str, lambda tag: spelled(tag)], ids=["tag", "spelled"])
def test_tags_in_a_json_string_do_not_end_the_call(form: Form, spell: Any) -> None:
    arguments = json.dumps({"text": QUOTED + ' "', "list": [END_TOOL, {END_TOOL: END_TOOL}], "count": 1})
    for call in (json_call(spell(arguments)), TOOL + spell(f'{{"arguments": {arguments}, "name": "get"}}') + END_TOOL):
        content, _, calls = form.parse_text(f"{call}\nafter {call}")
        assert content == "\nafter "
        assert [(name, json.loads(text)) for name, text in calls] == [("get", json.loads(arguments))] * 2


@pytest.mark.parametrize("spell", [str, lambda tag: spelled(tag)], ids=["tag", "spelled"])
def test_tags_in_an_xml_value_do_not_end_the_call(form: Form, spell: Any) -> None:
    value = spell(IN_XML)
    content, _, calls = form.parse_text(f"{xml_call(text=value, count='1')}\nafter {xml_call(text=value)}")
    assert content == "\nafter "
    assert [json.loads(text) for _, text in calls] == [{"text": IN_XML, "count": 1}, {"text": IN_XML}]


def test_any_tag_may_be_spelled_out_in_an_xml_value_where_tags_are_tokens() -> None:
    _, _, calls = FORMS["tokens"].parse_text(xml_call(text=spelled(" ".join(TAGS)), count=spelled(f'["{END_VALUE}"]')))
    assert [json.loads(text) for _, text in calls] == [{"text": " ".join(TAGS), "count": [END_VALUE]}]


def test_a_call_that_ends_within_its_json_string(form: Form) -> None:
    broken = f'{TOOL}{{"name": "get", "arguments": {{"text": "lo{END_TOOL}'
    expected = ("get", '{"text": "lo')
    for after in ("", "\nI did.", '\nI did "it", {yes}.'):
        assert form.parse_text(broken + after) == (after, "", [expected])
    good = ("get", '{"count": 1}')
    assert form.parse_text(broken + json_call('{"count": 1}') + "x") == ("x", "", [expected, good])
    assert form.parse_text(broken + xml_call(count="1") + "x") == ("x", "", [expected, good])
    assert form.parse_text(broken.removesuffix(END_TOOL) + json_call('{"count": 1}')) == ("", "", [expected, good])


def test_an_xml_value_that_is_not_closed(form: Form) -> None:
    broken = f"{TOOL}get{KEY}text{END_KEY}{VALUE}lo "
    for end in (END_TOOL, ""):
        assert form.parse_text(broken + end) == ("", "", [("get", '{"text": "lo"}')])
    two = ("", "", [("get", '{"text": "lo"}'), ("get", '{"count": 1}')])
    assert form.parse_text(f"{broken}{END_TOOL}\n{xml_call(count='1')}") == two
    assert form.parse_text(f"{broken}{xml_call(count='1')}") == two
    more = f"{broken}{KEY}count{END_KEY}{VALUE}1{END_VALUE}{END_TOOL} x"
    assert form.parse_text(more) == (" x", "", [("get", '{"text": "lo", "count": 1}')])


def test_forgotten_and_stray_tags_of_xml(form: Form) -> None:
    for body in (
        f"get{KEY}count{VALUE}1{END_VALUE}",
        f"get\n{KEY}\ncount \n{END_KEY} some text {VALUE} 1\n{END_VALUE}{END_VALUE}{END_KEY}x{VALUE}",
        f" get {KEY}text{KEY}count{END_KEY}{VALUE}1{END_VALUE}{KEY}text",
    ):
        assert form.parse_text(TOOL + body + END_TOOL) == ("", "", [("get", '{"count": 1}')])
    for body in (f"{KEY}count{END_KEY}", f"get{END_KEY}", f"get{VALUE}1{END_VALUE}", "get it", "{", "x" * 257):
        content, _, calls = form.parse_text(TOOL + body + END_TOOL)
        assert (content, calls) == (TOOL + body + END_TOOL, [])


@pytest.mark.parametrize(
    ("body", "arguments"),
    [
        ('{"name": "get", "arguments": null}', "{}"),
        ('{"name": "get", "parameters": null}', "{}"),
        ('{"arguments": null, "name": "get"}', "{}"),
        ('{"name": "get"}', "{}"),
        ('{"name": "get", "arguments": ""}', "{}"),
        ('{"name": "get", "parameters": {"a": 1}}', '{"a": 1}'),
        ('{"name": "get", "arguments": "{\\"a\\": 1}"}', '{"a": 1}'),
        ('{\n  "name": "get",\n  "arguments": {\n    "a": 1\n  }\n}', '{\n    "a": 1\n  }'),
        ('{"name": "get", "arguments": {"a": 1}', '{"a": 1}'),
        ('{"name": "get", "arguments": {"a": "\\u00e9\\ud83d\\ude00\\\\"}}', '{"a": "\\u00e9\\ud83d\\ude00\\\\"}'),
        ('{"arguments": {"a": "\\u00e9"}, "name": "get"}', '{"a": "é"}'),
        ('{"arguments": {"a": "\\ud83d"}, "name": "get"}', '{"a": "\\ud83d"}'),
    ],
    ids=range(12),
)
def test_arguments_of_the_json_format(form: Form, body: str, arguments: str) -> None:
    content, _, calls = form.parse_text(TOOL + body + END_TOOL)
    assert (content, calls) == ("", [("get", arguments)])


def test_arguments_that_begin_late_wait_for_the_end(form: Form) -> None:
    units = form.units(TOOL + '{"name": "get",' + " " * 2000 + '"arguments": {"a":1}}' + END_TOOL)
    assert form.parse(units) == form.parse([join(units)]) == ("", "", [("get", '{"a": 1}')])


@pytest.mark.parametrize(
    "body",
    ['{"name": "a\nb", "arguments": {"a": 1}}', '{"name": " "}', '{"name": "\\ud83d"}', "[1]", '{"a": 1', "{" * 5000],
    ids=range(6),
)
def test_what_is_no_call_is_content_that_can_be_sent(form: Form, body: str) -> None:
    text = TOOL + body + END_TOOL
    units = form.units(text)
    content, _, calls = form.parse(units)
    assert (content, calls) == (text, [])
    assert orjson.dumps(content)


VALUES = {
    "1": "1",
    " 1.50\n": "1.5",
    "true": "true",
    "True": "true",
    "None": "null",
    "null": "null",
    "{'a': 1}": '{"a": 1}',
    '{"a": [1, {"b": null}]}': '{"a": [1, {"b": null}]}',
    "(1, 'x')": '[1, "x"]',
    "{1: True}": '{"1": true}',
    '"12"': '"12"',
    "'it'": '"it"',
    "-2": "-2",
    "é 猫": '"é 猫"',
    "": '""',
    "a < b": '"a < b"',
    "007": '"007"',
    "NaN": '"NaN"',
    "1e999": '"1e999"',
    "[Infinity]": '"[Infinity]"',
    "{1, 2}": '"{1, 2}"',
    "b'x'": "\"b'x'\"",
    "1+2j": '"1+2j"',
    "__import__('os')": "\"__import__('os')\"",
    "9**9**9": '"9**9**9"',
    "{'a': '\\d'}": '{"a": "\\\\d"}',
    "{'a'": "\"{'a'\"",
    '"\\ud83d"': '"\\ud83d"',
    "1" * 5000: f'"{"1" * 5000}"',
}


@pytest.mark.parametrize("value", VALUES)
def test_values_that_are_no_strings(form: Form, value: str) -> None:
    assert form.parse(form.units(xml_call(count=value))) == ("", "", [("get", f'{{"count": {VALUES[value]}}}')])
    # neither is an argument without a schema, or one of an unknown tool
    other = xml_call(other=value).replace(f"{TOOL}get", f"{TOOL}unknown")
    assert form.parse(form.units(other)) == ("", "", [("unknown", f'{{"other": {VALUES[value]}}}')])


@pytest.mark.parametrize("value", [*VALUES, '"quoted"', "back\\slash", "two\nlines", "\x00\x1f"])
def test_values_of_strings_stay_text(form: Form, value: str) -> None:
    (call,) = form.parse(form.units(xml_call(text=f" \n{value}\n ")))[2]
    assert json.loads(call[1]) == {"text": value.strip()}


HARD = [
    "[" * 5000,
    "(" * 70 + "1" + ")" * 70,
    "-" * 8000 + "1",
    "lambda:" * 1000 + "1",
    "a." * 4000,
    "1+" * 4000 + "1j",
]
LONG = ["[True, " * 2000, "{'a': " * 3000, "[" + "1, " * 100_000 + "True]"]


@pytest.mark.parametrize("text", [*HARD, *LONG], ids=range(9))
def test_what_is_too_long_or_too_deep_to_be_read_stays_text(text: str) -> None:
    assert typed_value(text) == json.dumps(text)


def test_what_is_just_short_and_flat_enough_is_read() -> None:
    deep = "[" * LITERAL_DEPTH + "True" + "]" * LITERAL_DEPTH
    assert typed_value(deep) == deep.lower()
    long = "['" + "x" * (LITERAL_CHARS - 4) + "']"
    assert typed_value(long) == long.replace("'", '"')
    assert typed_value(long.replace("x", "xx", 1)) == json.dumps(long.replace("x", "xx", 1))


@pytest.mark.filterwarnings("error")
@given(st.one_of(st.text(), st.text("[]{}()'\",:-+ \\uTrueNone019ead.", max_size=40)))
def test_a_value_is_always_json(text: str) -> None:
    value = typed_value(text)
    json.loads(value, parse_constant=pytest.fail)
    assert orjson.dumps(value)


def test_string_values_stream_and_others_wait(form: Form) -> None:
    parser = OutputParser(SCHEMAS, tokens=TAGS if form.tokens else ())
    arguments = []
    for unit in form.units(xml_call(text='say "hi" \n twice ', count="12")):
        for delta in parser.push(unit.text, unit.tags):
            assert delta.tool is not None
            arguments += [delta.tool.arguments] if delta.tool.arguments else []
    assert arguments[:6] == ['{"text": "', "s", "a", "y", ' \\"', "h"]
    assert arguments[-4:] == ["e", '"', ', "count": ', "12}"] or arguments[-5:] == ["e", '"', ', "count": ', "12", "}"]
    assert "".join(arguments) == '{"text": "say \\"hi\\" \\n twice", "count": 12}'


def test_calls_that_the_token_limit_cuts_are_left_open(form: Form) -> None:
    call = xml_call(text="Paris and", count="12")
    for end, arguments in (
        (call.index("Paris") + 3, '{"text": "Par'),
        (call.index("and"), '{"text": "Paris'),
        (call.index(f"{KEY}count") + 3, '{"text": "Paris and"'),
        (call.index("12") + 1, '{"text": "Paris and", "count": '),
        (call.index("text"), ""),
    ):
        assert form.parse_text(call[:end], cut=True) == ("", "", [("get", arguments)])
    assert form.parse_text(call[: call.index("get") + 2], cut=True) == ("", "", [])
    quoted = json_call(json.dumps({"text": f"the {END_TOOL} and more"}))
    assert form.parse_text(quoted[: quoted.index("more")], cut=True)[2] == [("get", f'{{"text": "the {END_TOOL} and ')]
    value = xml_call(text=f"the {END_TOOL} and more")
    assert form.parse_text(value[: value.index("more")], cut=True)[2] == [("get", f'{{"text": "the {END_TOOL} and')]
