"""Why a grammar cannot be used, in words for clients: llguidance's own speak of its types. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable

MOST = 300  # characters of an error, which may quote the grammar
UNKNOWN = "it cannot be compiled"

_PLACE = re.compile(r"(?:at )?(\d+)\(\d+\): (.*)", re.DOTALL)
_EXCERPT = re.compile(r"\n\s*\d+ \|")  # of the grammar, which follows an error
_REGEX_ERROR = re.compile(r"regex parse error:.*?\nerror: ([^\n]+)", re.DOTALL)
_OURS = re.compile(r"::|\w ?\{|\w\(|\b[A-Z][a-z]+[A-Z]|\bpanick", re.ASCII)  # what only programs write
_NAMES = {
    "rule_name": "the name of a rule",
    "TOKEN_NAME": "the name of a terminal",
    "f64": "a number",
    "u64": "a whole number",
    "usize": "a whole number",
    "i64": "a whole number",
    "bool": "true or false",
    "array": "an array",
    "object": "an object",
    "string": "a string",
}


def _name(found: str) -> str:
    return _NAMES.get(found, f"'{found}'")


Words = Callable[[re.Match[str]], str]
_WORDS: tuple[tuple[str, Words], ...] = (
    (r"NoExtensionBias", lambda _: "no output can complete it"),
    (r"lookarounds not supported yet; Word", lambda _: r"word boundaries such as \b are not supported in a pattern"),
    (r"priority not supported yet", lambda _: "priorities, as in NAME.2, are not supported"),
    (r"params not supported yet", lambda _: "templates, as in name{x}, are not supported"),
    (r"(\w+) statement not supported yet", lambda found: f"%{found[1]} is not supported"),
    (r"Expected token '(.+?)', found '(.+?)'", lambda found: f"{_name(found[1])} is expected, not {_name(found[2])}"),
    (r"expecting rule, token or statement", lambda _: "a rule, a terminal or a statement is expected"),
    (r"lexer error", lambda _: "this is no Lark"),
    (r"unknown name: \"(.+?)\"", lambda found: f"'{found[1]}' is not defined"),
    (r"no start rule found", lambda _: "there is no rule named start"),
    (r"circular reference in token \"(.+?)\"", lambda found: f"the terminal '{found[1]}' refers to itself"),
    (r"duplicate (?:rule|token): \"(.+?)\"", lambda found: f"'{found[1]}' is defined twice"),
    (r"Unknown common regex: ([\w.]+)", lambda found: f"'{found[1]}' cannot be imported"),
    (r"Invalid type: (.+)", lambda found: f"type '{found[1]}' is none of JSON Schema's"),
    (r"Resource '(.*?)' is not present", lambda found: f"$ref '{found[1]}' is outside the schema; nothing is fetched"),
    (r"Pointer '(.*?)' does not exist", lambda found: f"$ref '#{found[1]}' leads nowhere"),
    (r"Unimplemented keys: \[(.*?)\]", lambda found: f"not supported: {found[1].replace(chr(34), '')}"),
    (r"Unknown format: (.+)", lambda found: f"format '{found[1]}' is not supported"),
    (r"anyOf is empty", lambda _: "nothing satisfies it: an enum or an anyOf is empty"),
    (r"Unsatisfiable schema: (.+)", lambda found: f"nothing satisfies it: {found[1]}"),
    (r"Expected positive integer for '(.+?)'", lambda found: f"'{found[1]}' must be a whole number from 0"),
    (r"Expected (\w+) for '(.+?)'", lambda found: f"'{found[2]}' must be {_name(found[1])}"),
    (r"oneOf constraints are not supported", lambda _: "a oneOf whose branches may overlap is not supported"),
    (r"invalid multiple of", lambda _: "multipleOf must be above 0"),
)


def plain_error(error: str) -> str:
    """Returns why a grammar cannot be used, from llguidance's words for it; begins with `line N: ` if that is known."""
    text = error.partition("<state>")[0].strip()
    placed = _PLACE.match(text)
    line, said = (f"line {placed[1]}: ", placed[2]) if placed else ("", text)
    return (line + _reason(said))[:MOST]


def _reason(said: str) -> str:
    if regex := _REGEX_ERROR.search(said):
        return f"the regular expression is not valid: {regex[1]}"
    said = _EXCERPT.split(said)[0].strip()
    for pattern, words in _WORDS:
        if found := re.search(pattern, said):
            return words(found)
    first = said.partition("\n")[0].replace(" not supported yet", " not supported")
    return UNKNOWN if not first or _OURS.search(first) else first
