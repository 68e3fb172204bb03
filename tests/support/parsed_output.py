"""Model output given to the parser in parts, with LongCat's tags as tokens or as text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from services.router.gateway.output_parser import OutputParser
from services.router.gateway.output_tags import TAGS
from services.router.requests.text import Tag, TaggedText

SCHEMAS = {"get": {"properties": {"text": {"type": "string"}, "count": {"type": "integer"}}}}
Parsed = tuple[str, str, list[tuple[str, str]]]
"""Content, reasoning, and calls: (name, arguments)."""

_UNITS = re.compile("|".join(map(re.escape, TAGS)) + "|.", re.DOTALL)


def spelled(tag: str) -> str:
    """Returns the text of a tag that is not the tag's token, where tags are tokens."""
    return tag.replace("<", "\x02")


@dataclass(frozen=True)
class Form:
    """How tags come: as tokens of their own, which no delta can cut, or as text."""

    tokens: bool

    def units(self, text: str) -> list[TaggedText]:
        """Returns the parts between which a text can be cut."""
        if not self.tokens:
            return [TaggedText(char) for char in text.replace("\x02", "<")]
        found = _UNITS.findall(text)
        return [TaggedText(unit.replace("\x02", "<"), (Tag(0, unit),) if unit in TAGS else ()) for unit in found]

    def parse(
        self, deltas: Sequence[TaggedText], *, tools: bool = True, reasoning: bool = False, cut: bool = False
    ) -> Parsed:
        """Asserts that nothing shown is taken back, and that calls come in order."""
        parser = OutputParser(SCHEMAS if tools else None, reasoning=reasoning, tokens=TAGS if self.tokens else ())
        parts = [part for delta in deltas for part in parser.push(delta.text, delta.tags)]
        parts += parser.finish(cut=cut)
        calls: list[list[str]] = []
        for step in (part.tool for part in parts if part.tool is not None):
            if step.name is not None:
                assert step.index == len(calls)
                assert step.call_id is not None
                calls.append([step.name, ""])
            assert step.index == len(calls) - 1
            calls[-1][1] += step.arguments
        assert len(calls) == parser.calls
        content, thoughts = (
            "".join(part.text for part in parts if part.kind == kind) for kind in ("content", "reasoning")
        )
        return content, thoughts, [(name, arguments) for name, arguments in calls]

    def parse_text(self, text: str, *, tools: bool = True, reasoning: bool = False, cut: bool = False) -> Parsed:
        """Parses a text in one delta, unit by unit, and in every two deltas; asserts that all are the same."""
        units = self.units(text)
        cuts = [units, *([join(units[:i]), join(units[i:])] for i in range(len(units)))]
        found = [self.parse(deltas, tools=tools, reasoning=reasoning, cut=cut) for deltas in cuts]
        for deltas, one in zip(cuts, found, strict=True):
            assert one == found[0], deltas
        return found[0]


def join(units: Sequence[TaggedText]) -> TaggedText:
    """Returns one delta of several."""
    return sum(units, TaggedText())


FORMS = {"tokens": Form(tokens=True), "text": Form(tokens=False)}
