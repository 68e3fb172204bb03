"""Formats of answers over HTTP: a model that writes at random writes what the request asks for, with the same bits."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from support.engine_attention import EngineAttention
from support.gateway_harness import MODEL, Harness

pytestmark = pytest.mark.processes

HI: list[Any] = [{"role": "user", "content": "hi"}]
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 8},
        "days": {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 31}, "maxItems": 3},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
LARK = 'start: "<" WORD ">"\nWORD: /[a-c]{2,5}/'
GBNF = 'root ::= "<" [a-c] [a-c] ">"'


@pytest.fixture(scope="module")
def random_model(assets_path: Path) -> Iterator[Harness]:
    with Harness(assets_path, EngineAttention(assets_path)) as harness:
        yield harness


def chat(harness: Harness, **fields: Any) -> str:
    body = {"temperature": 1.0, "seed": 1, "max_tokens": 300, **fields}
    extra = {name: body.pop(name) for name in list(body) if name.startswith(("guided", "structured", "allowed", "bad"))}
    answer = harness.client().chat.completions.create(model=MODEL, messages=HI, extra_body=extra, **body)
    assert answer.choices[0].finish_reason == "stop"
    return answer.choices[0].message.content or ""


def rejection(harness: Harness, **fields: Any) -> openai.BadRequestError:
    with pytest.raises(openai.BadRequestError) as caught:
        chat(harness, **fields)
    return caught.value


@pytest.mark.parametrize("seed", range(4))
def test_a_json_schema_is_followed(random_model: Harness, seed: int) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "trip", "schema": SCHEMA, "strict": True}}
    value = json.loads(chat(random_model, response_format=form, seed=seed))
    assert set(value) == {"city", "days"}
    assert len(value["city"]) <= 8
    assert all(1 <= day <= 31 for day in value["days"])


def test_a_stream_has_the_text_of_the_whole_answer(random_model: Harness) -> None:
    fields: dict[str, Any] = {
        "model": MODEL,
        "messages": HI,
        "seed": 3,
        "response_format": {"type": "json_schema", "json_schema": {"name": "trip", "schema": SCHEMA}},
    }
    client = random_model.client()
    whole = client.chat.completions.create(**fields).choices[0].message.content
    parts = [chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(stream=True, **fields)]
    assert "".join(parts) == whole
    assert len(parts) > 3


@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        ({"structured_outputs": {"choice": ["Paris", "Rome", 'a "b" \\ ü']}}, r'Paris|Rome|a "b" \\ ü'),
        ({"guided_choice": ["only"]}, "only"),
        ({"structured_outputs": {"regex": r"[a-f]{3}/\d\/x"}}, r"[a-f]{3}/\d/x"),
        ({"guided_regex": "(ab|cd)\n!"}, "(ab|cd)\n!"),
        ({"guided_regex": "a\\\nb"}, "a\nb"),
        ({"structured_outputs": {"grammar": LARK}}, "<[a-c]{2,5}>"),
        ({"guided_grammar": GBNF}, "<[a-c][a-c]>"),
        ({"structured_outputs": {"json": {"enum": [1, "two"]}}}, r'1|"two"'),
        ({"guided_json": json.dumps({"type": "integer", "minimum": 5, "maximum": 7})}, "[567]"),
        ({"structured_outputs": {"json": {"const": {"a": 1}}, "disable_any_whitespace": True}}, r'\{"a":1\}'),
        ({"guided_json": {"const": [1, 2]}, "guided_whitespace_pattern": "_"}, r"_?\[_?1_?,_?2_?\]_?"),
    ],
    ids=range(11),
)
def test_every_kind_of_format(random_model: Harness, fields: dict[str, Any], pattern: str) -> None:
    for temperature in (0, 1.5):
        assert re.fullmatch(pattern, chat(random_model, temperature=temperature, **fields))


def test_any_json_object(random_model: Harness) -> None:
    text = chat(random_model, response_format={"type": "json_object"}, logit_bias={"2": 100}, temperature=0)
    assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize(
    ("fields", "longest"),
    [
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "trip", "schema": SCHEMA}}},
            r"\n? {0,16}",
        ),
        ({"guided_json": SCHEMA}, r"\n? {0,16}"),
        ({"structured_outputs": {"json": SCHEMA, "disable_any_whitespace": True}}, ""),
        ({"structured_outputs": {"json": SCHEMA, "whitespace_pattern": " {3}"}}, " {3}"),
    ],
    ids=range(4),
)
def test_a_model_in_love_with_white_space_writes_little_of_it(
    random_model: Harness, fields: dict[str, Any], longest: str
) -> None:
    spaces = {str(random_model.ids(text)[0]): 100 for text in (" ", "\n", "\t", "  ")}
    text = chat(random_model, logit_bias=spaces, temperature=0, **fields)
    assert set(json.loads(text)) == {"city", "days"}
    outside = re.sub(r'"[^"]*"', '""', text)
    for found in re.findall(r"\s+", outside):
        assert re.fullmatch(longest, found.replace("\t", "  ")), repr(found)
    assert bool(re.search(r"\s", outside)) is bool(longest)


def test_plain_text_is_free(random_model: Harness) -> None:
    free = random_model.client().completions.create(model=MODEL, prompt="a", seed=4, max_tokens=20)
    text = random_model.client().completions.create(
        model=MODEL, prompt="a", seed=4, max_tokens=20, extra_body={"response_format": {"type": "text"}}
    )
    assert text.choices[0].text == free.choices[0].text


def test_completions_take_formats_too(random_model: Harness) -> None:
    answer = random_model.client().completions.create(
        model=MODEL, prompt="a", max_tokens=50, n=3, extra_body={"guided_choice": ["yes", "no", "maybe"]}
    )
    assert {choice.text for choice in answer.choices} <= {"yes", "no", "maybe"}


SCHEMA_FIELD = "response_format.json_schema.schema"
IN_PLAIN_WORDS: dict[str, tuple[dict[str, Any], str, str]] = {
    "regex": ({"guided_regex": "("}, "guided_regex", "the regular expression is not valid: unclosed group"),
    "regex_newer": ({"structured_outputs": {"regex": r"(a)\1"}}, "structured_outputs.regex", "backreferences"),
    "regex_look": ({"guided_regex": "a(?=b)"}, "guided_regex", "look-around"),
    "lark_missing": ({"guided_grammar": "start: missing"}, "guided_grammar", "line 1: 'missing' is not defined"),
    "lark_line": (
        {"structured_outputs": {"grammar": 'start: A\nA.2: "a"'}},
        "structured_outputs.grammar",
        "line 2: priorities, as in NAME.2, are not supported",
    ),
    "lark_template": ({"guided_grammar": 'start: l{"a"}\nl{x}: x'}, "guided_grammar", "line 2: templates"),
    "lark_declare": ({"guided_grammar": "start: A\n%declare A"}, "guided_grammar", "line 2: %declare is not supported"),
    "lark_import": (
        {"guided_grammar": "start: X\n%import python.X"},
        "guided_grammar",
        "'python.X' cannot be imported",
    ),
    "lark_no_start": ({"guided_grammar": 'a: "b"'}, "guided_grammar", "there is no rule named start"),
    "lark_syntax": ({"guided_grammar": "start = a"}, "guided_grammar", "line 1: ':' is expected, not '='"),
    "gbnf_missing": ({"guided_grammar": "root ::= nope"}, "guided_grammar", "Rule 'nope' not found"),
    "gbnf_no_root": ({"guided_grammar": 'expr ::= "a"'}, "guided_grammar", ""),
    "gbnf_deep": ({"guided_grammar": "root ::= " + "[" * 2000}, "guided_grammar", ""),
    "json_type": ({"guided_json": {"type": "strange"}}, "guided_json", "type 'strange' is none of JSON Schema's"),
    "json_not": ({"guided_json": {"not": {}}}, "guided_json", "not supported: not"),
    "json_false": ({"guided_json": False}, "guided_json", "not supported: not"),
    "json_none": (
        {"structured_outputs": {"json": {"allOf": [{"type": "string"}, {"type": "integer"}]}}},
        "structured_outputs.json",
        "nothing satisfies it",
    ),
    "json_ref": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"$ref": "http://x"}}}},
        SCHEMA_FIELD,
        "$ref 'http://x' is outside the schema; nothing is fetched",
    ),
    "json_keyword": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"required": 3}}}},
        SCHEMA_FIELD,
        "'required' must be an array",
    ),
    "json_pattern": ({"guided_json": {"type": "string", "pattern": "("}}, "guided_json", "unclosed group"),
}


@pytest.mark.parametrize("name", IN_PLAIN_WORDS)
def test_what_cannot_be_met_is_rejected_by_name_and_in_plain_words(random_model: Harness, name: str) -> None:
    fields, param, words = IN_PLAIN_WORDS[name]
    error = rejection(random_model, **fields)
    assert error.param == param
    assert re.search(rf"{re.escape(param)}: .*{re.escape(words)}", error.message), error.message
    assert not re.search(r"::|f64|usize|Some\(|TOKEN_NAME|NoExtension|\n", error.message)
    assert chat(random_model, guided_choice=["still there"]) == "still there"


@pytest.mark.parametrize(
    "grammar",
    [
        '?start: "<" x ">"\n?x: "ab"',
        '!start: "<" x ">"\n!?x: "ab"',
        '\n\n?start: "<" x ">"\n_y: "b"\nx: "a" _y -> name',
        '%import common.WS\n?start: "<" "ab" ">"',
        'X: "ab"\n?start : "<" X ">"',
        'start: "<" ["a"] "b"~1 ">"\n// root ::= "x"',
        'root ::= "<" x ">"\nx ::= "ab" # start: y',
    ],
)
def test_modifiers_of_lark_that_make_no_difference_to_the_output(random_model: Harness, grammar: str) -> None:
    assert re.fullmatch("<a?b>", chat(random_model, guided_grammar=grammar))


@pytest.mark.parametrize(
    "keyword",
    [
        {"uniqueItems": True},
        {"propertyNames": {"pattern": "a"}},
        {"dependentRequired": {"a": ["b"]}},
        {"dependentSchemas": {"a": {}}},
        {"contains": {"type": "integer"}},
        {"unevaluatedProperties": False},
        {"not": {"type": "integer"}},
        {"if": {"type": "integer"}, "then": {"minimum": 3}},
        {"oneOf": [{"type": "integer"}, {"type": "number"}]},
        {"type": "string", "pattern": r"\ba"},
    ],
    ids=lambda keyword: list(keyword)[-1],
)
def test_keywords_that_docs_say_cannot_be_kept_are_rejected(random_model: Harness, keyword: dict[str, Any]) -> None:
    assert rejection(random_model, guided_json=keyword).status_code == 400


def test_a_rejected_stream_has_a_status_of_its_own(random_model: Harness) -> None:
    assert rejection(random_model, guided_regex="(", stream=True).status_code == 400


def test_allowed_ids_and_bad_words(random_model: Harness) -> None:
    cat, dog = random_model.ids("cat"), random_model.ids("hello")
    answer = random_model.client().chat.completions.create(
        model=MODEL, messages=HI, extra_body={"allowed_token_ids": [*cat, *dog, 2], "return_token_ids": True}
    )
    assert set(answer.choices[0].model_extra["token_ids"]) <= {*cat, *dog, 2}  # type: ignore[index]
    only = {"allowed_token_ids": [*random_model.ids("a"), *random_model.ids("b"), 2], "seed": 5}
    assert "b" in chat(random_model, **only)
    assert "b" not in chat(random_model, bad_words=["b"], **only)


def test_rules_that_leave_nothing_are_rejected(random_model: Harness) -> None:
    a = random_model.ids("a")
    error = rejection(random_model, allowed_token_ids=a, guided_choice=["b"])
    assert "allow no token" in error.message


def test_a_worker_that_is_lost_changes_nothing(assets_path: Path) -> None:
    fields: dict[str, Any] = {
        "model": MODEL,
        "messages": HI,
        "seed": 11,
        "extra_body": {"structured_outputs": {"regex": "([a-z]{3} ){40}"}, "return_token_ids": True},
        "stream": True,
    }
    first, second = EngineAttention(assets_path, "attention-0"), EngineAttention(assets_path, "attention-1")
    with Harness(assets_path, first) as harness:
        expected = [chunk.model_dump()["choices"] for chunk in harness.client().chat.completions.create(**fields)]
    first = EngineAttention(assets_path, "attention-0")
    with Harness(assets_path, first, second) as harness:
        stream = iter(harness.client().chat.completions.create(**fields))
        chunks = [next(stream) for _ in range(20)]
        assert first.worker is not None
        assert second.worker is not None
        used = first if first.worker.engine.busy else second
        assert used.worker is not None
        used.worker.engine.evict("draining")
        chunks += list(stream)
        assert harness.metrics.failovers._value.get() == 1

    def ids(all_choices: list[Any]) -> list[int]:
        return [one for choices in all_choices for choice in choices for one in choice.get("token_ids") or []]

    assert ids([chunk.model_dump()["choices"] for chunk in chunks]) == ids(expected)
