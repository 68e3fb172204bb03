"""Grammars of tool calls in the formats that LongCat's templates ask for, as rules in llguidance's Lark. Pure.

JSON:  <longcat_tool_call>{"name": "f", "arguments": {...}}</longcat_tool_call>
XML:   <longcat_tool_call>f<longcat_arg_key>city</longcat_arg_key><longcat_arg_value>Paris</longcat_arg_value>...
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from services.router.gateway.argument_values import is_string
from services.router.gateway.json_grammar import bounded
from services.router.gateway.output_tags import END_KEY, END_TOOL, END_VALUE, KEY, TOOL, VALUE
from services.router.requests.errors import InvalidRequest

Terminal = Callable[[str], str]  # the Lark symbol of a tag

# What a schema may have to be followed in the XML format, argument by argument.
PLAIN_OBJECT = {"type", "properties", "required", "additionalProperties", "title", "description", "$schema", "strict"}
PLAIN_STRING = {"type", "title", "description", "default", "examples", "enum", "const", "nullable"}
LINE = json.dumps("\n")


def call_rule(name: str, schema: Mapping[str, Any] | None, tag: Terminal, *, xml: bool, field: str) -> str:
    """Returns the right side of the rule of one call that output_parser.py can read. `schema` None: any arguments.

    Raises InvalidRequest about the `field` that has the schema.
    """
    if schema is not None and schema.get("type", "object") != "object":
        raise InvalidRequest(f"{field}: must be of type object, not {json.dumps(schema['type'])[:40]}.", param=field)
    if xml and (schema is None or _plain(schema)):
        elements = f"({_element('TEXT', 'TEXT', tag)})*" if schema is None else _elements(schema, tag)
        return f"{tag(TOOL)} {json.dumps(name + chr(10))} {elements} {tag(END_TOOL)}"
    head = json.dumps('\n{"name": ' + json.dumps(name) + ', "arguments": ')
    arguments = json.dumps(bounded(dict(schema or {}) | {"type": "object"}))
    return f"{tag(TOOL)} {head} %json {arguments} {json.dumps('}' + chr(10))} {tag(END_TOOL)}"


def _elements(schema: Mapping[str, Any], tag: Terminal) -> str:
    required = schema.get("required", ())
    parts = []
    for key, about in schema.get("properties", {}).items():
        part = _element(json.dumps(key), _value(schema, key, about), tag)
        parts.append(part if key in required else f"({part})?")
    return " ".join(parts)


def _element(key: str, value: str, tag: Terminal) -> str:
    return f"{tag(KEY)} {key} {tag(END_KEY)} {LINE} {tag(VALUE)} {value} {tag(END_VALUE)} {LINE}"


def _value(schema: Mapping[str, Any], key: str, about: Any) -> str:
    if not is_string(schema, key):
        return "%json " + json.dumps(bounded(about) if isinstance(about, dict) else about)
    options = [about["const"]] if "const" in about else about.get("enum")
    if options is None:
        return "TEXT"
    return "(" + " | ".join(json.dumps(option) for option in options) + ")"


def _plain(schema: Mapping[str, Any]) -> bool:
    properties, required = schema.get("properties", {}), schema.get("required", [])
    return (
        schema.keys() <= PLAIN_OBJECT
        and isinstance(properties, dict)
        and isinstance(required, list)
        and set(map(str, required)) <= properties.keys()
        and isinstance(schema.get("additionalProperties", True), bool)
        and all(_plain_argument(schema, key, about) for key, about in properties.items())
    )


def _plain_argument(schema: Mapping[str, Any], key: str, about: Any) -> bool:
    if not key.strip() or key != key.strip() or "$ref" in json.dumps(about):
        return False
    if not is_string(schema, key):
        return isinstance(about, (dict, bool))
    options = [about["const"]] if "const" in about else about.get("enum", [])
    # The parser strips what is around a value.
    texts = isinstance(options, list) and all(isinstance(each, str) and each == each.strip() for each in options)
    return texts and about.keys() <= PLAIN_STRING
