"""What llguidance finds wrong with grammars, in plain words: asked of the library, so that new versions are noticed."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from llguidance import LLMatcher, LLParserLimits

from services.attention_worker.grammar_errors import MOST, UNKNOWN, plain_error

LIMITS = LLParserLimits(verbose_errors=False)
LARK = {
    'start: A\nA.2: "a"': "line 2: priorities, as in NAME.2, are not supported",
    'start: l{"a"}\nl{x}: x': "line 2: templates, as in name{x}, are not supported",
    "start: A\n%declare A": "line 2: %declare is not supported",
    "start: X\n%import common.FOO -> X": "line 2: 'common.FOO' cannot be imported",
    "start: missing": "line 1: 'missing' is not defined",
    'start: A\nA: "x" A': "line 2: the terminal 'A' refers to itself",
    'start: "a"\nstart: "b"': "line 2: 'start' is defined twice",
    'x: "a"': "there is no rule named start",
    'start = "a"': "line 1: ':' is expected, not '='",
    'start: "a"\n?!x: "b"': "line 2: a rule, a terminal or a statement is expected",
    'start: "a': "line 1: this is no Lark",
    "start: /(/": "line 1: the regular expression is not valid: unclosed group",
    r"start: /\ba/": r"line 1: word boundaries such as \b are not supported in a pattern",
}
SCHEMAS: list[tuple[Any, str]] = [
    ({"type": "strange"}, "type 'strange' is none of JSON Schema's"),
    ({"$ref": "http://x"}, "$ref 'http://x' is outside the schema; nothing is fetched"),
    ({"$ref": "#/$defs/a"}, "$ref '#/$defs/a' leads nowhere"),
    ({"not": {}, "uniqueItems": True, "type": "array"}, "not supported: uniqueItems, not"),
    ({"type": "string", "format": "nope"}, "format 'nope' is not supported"),
    ({"type": "string", "pattern": "("}, "the regular expression is not valid: unclosed group"),
    ({"type": "integer", "minimum": "a"}, "'minimum' must be a number"),
    ({"type": "string", "minLength": -1}, "'minLength' must be a whole number from 0"),
    ({"type": "object", "required": "a"}, "'required' must be an array"),
    ({"type": "integer", "minimum": 5, "maximum": 3}, "nothing satisfies it: minimum (5) is greater than maximum (3)"),
    ({"enum": []}, "nothing satisfies it: an enum or an anyOf is empty"),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "a oneOf whose branches may overlap is not supported"),
    ({"type": "number", "multipleOf": 0}, "multipleOf must be above 0"),
]


def error_of(grammar: dict[str, Any]) -> str:
    named = {"name": "answer", **grammar}
    output = {"name": "output", "lark_grammar": "start: @answer"}
    found = LLMatcher.validate_grammar(json.dumps({"grammars": [output, named]}), limits=LIMITS)
    assert found
    return plain_error(found)


@pytest.mark.parametrize("text", LARK)
def test_lark(text: str) -> None:
    assert error_of({"lark_grammar": text}) == LARK[text]


@pytest.mark.parametrize(("schema", "words"), SCHEMAS, ids=str)
def test_json_schema(schema: dict[str, Any], words: str) -> None:
    found = error_of({"json_schema": schema})
    assert sorted(re.findall(r"\w+", found)) == sorted(re.findall(r"\w+", words)), found


@pytest.mark.parametrize(
    "error",
    ["", "panicked at src/earley/parser.rs:12", "ParserTooComplex { rows: 3 }", "called `Option::unwrap()`", "Some(3)"],
)
def test_what_only_programs_write_is_not_passed_on(error: str) -> None:
    assert plain_error(error) == UNKNOWN


def test_errors_are_short() -> None:
    assert len(plain_error('at 1(2): unknown name: "' + "x" * 5000 + '"\n 1 | start: xxx')) == MOST
