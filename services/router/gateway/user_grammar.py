"""Grammars that requests bring, in Lark or in GBNF, as llguidance's Lark. Pure."""

from __future__ import annotations

import re

from services.router.requests.errors import InvalidRequest

GBNF_RULE = re.compile(r"^\s*[A-Za-z][\w-]*\s*::=", re.MULTILINE)
LARK_START = re.compile(r"^\s*!?\??start\s*(\.\s*-?\d+\s*)?:(?!:)", re.MULTILINE)
# Statements of Lark that llguidance cannot even read, so that its error would not name them.
REFUSED = re.compile(r"^[ \t]*%(extend|override|declare)\b", re.MULTILINE)
PLACE = re.compile(r"(.*?) at line (\d+), ", re.DOTALL)  # in an error of the conversion


def lark_of(text: str, field: str) -> str:
    """Returns a grammar as Lark. Raises InvalidRequest about `field`."""
    if GBNF_RULE.search(text) and not LARK_START.search(text):
        return _from_gbnf(text, field)
    if found := REFUSED.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise InvalidRequest(f"{field}: line {line}: %{found[1]} is not supported.", param=field)
    return text


def _from_gbnf(text: str, field: str) -> str:
    from llguidance.gbnf_to_lark import gbnf_to_lark  # 10 ms, which only such requests pay

    try:
        return str(gbnf_to_lark(text))
    except RecursionError:
        reason = "it is nested too deep"
    except Exception as error:  # noqa: BLE001  the library raises bare Exception
        found = PLACE.match(str(error))
        reason = f"line {found[2]}: {found[1][:1].lower()}{found[1][1:200]}" if found else str(error)[:200]
    raise InvalidRequest(f"{field}: {reason}.", param=field)
