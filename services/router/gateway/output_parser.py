"""Parses LongCat's output into OpenAI's parts, as it streams: content, reasoning, tool calls.

Never shows part of a tag. Time is linear in the text: nothing is evaluated, and no backtracking regular expression is
run on model output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from services.router.gateway.tool_calls import CallStream, ToolDelta
from services.router.requests.stops import held_length

THINK, END_THINK = "<longcat_think>", "</longcat_think>"
TOOL, END_TOOL = "<longcat_tool_call>", "</longcat_tool_call>"
TAGS = (THINK, END_THINK, TOOL, END_TOOL)
ARGUMENT_TAGS = ("<longcat_arg_key>", "</longcat_arg_key>", "<longcat_arg_value>", "</longcat_arg_value>")

State = Literal["content", "reasoning", "tool"]


@dataclass(frozen=True, slots=True)
class Delta:
    """A part of the answer: content, reasoning, or a step of a tool call."""

    kind: Literal["content", "reasoning", "tool"]
    text: str = ""
    tool: ToolDelta | None = None


class OutputParser:
    """Parses one choice. `tools`: the JSON schemas of the arguments by tool name; None = tool calls stay content."""

    def __init__(self, tools: Mapping[str, Mapping[str, Any]] | None, *, reasoning: bool = False) -> None:
        self._tools = tools
        self._state: State = "reasoning" if reasoning else "content"
        self._held = ""
        self._spaces = ""  # white space that is shown only if something follows it
        self._trim = reasoning  # drop white space at the beginning of the next text
        self._call: CallStream | None = None
        self.calls = 0

    @property
    def reasoning(self) -> bool:
        """Whether a reasoning block is open at the end of the text so far."""
        return self._state == "reasoning"

    def push(self, text: str) -> list[Delta]:
        """Returns the parts that the text adds, as far as they are certain."""
        if self._is_plain_content(text):
            return [Delta("content", text)]
        deltas: list[Delta] = []
        text = self._held + text
        while (tag := self._first_tag(text)) is not None:
            start = text.index(tag)
            deltas += self._text(text[:start])
            deltas += self._enter(tag)
            text = text[start + len(tag) :]
        held = held_length(text, self._possible_tags())
        self._held = text[len(text) - held :]
        return deltas + self._text(text[: len(text) - held])

    def finish(self) -> list[Delta]:
        """Returns what was held back; an unfinished tool call as far as it can be read, or else as content."""
        held, self._held = self._held, ""
        deltas = self._text(held)
        if self._call is not None:
            deltas += self._close_call(complete=False)
        if self._state == "content" and self._spaces:
            deltas.append(Delta("content", self._spaces))
        return deltas

    def _is_plain_content(self, text: str) -> bool:
        """Whether the text can be passed on as it is: true for most texts, so worth a shortcut."""
        plain = self._state == "content" and not (self._held or self._spaces or self._trim)
        return plain and "<" not in text and text != "" and (self._tools is None or text[-1] > " ")

    def _possible_tags(self) -> Sequence[str]:
        if self._state == "tool":
            return (END_TOOL,)
        tool = () if self._tools is None else (TOOL,)
        return (*tool, THINK) if self._state == "content" else (*tool, END_THINK)

    def _first_tag(self, text: str) -> str | None:
        found = [(start, tag) for tag in self._possible_tags() if (start := text.find(tag)) >= 0]
        return min(found)[1] if found else None

    def _enter(self, tag: str) -> list[Delta]:
        if tag == TOOL:
            self._state, self._spaces = "tool", ""
            self._call = CallStream(self.calls, self._tools or {})
            return []
        if tag == END_TOOL:
            deltas = self._close_call(complete=True)
            self._state, self._trim = "content", True
            return deltas
        self._state, self._spaces, self._trim = ("reasoning" if tag == THINK else "content"), "", True
        return []

    def _close_call(self, *, complete: bool) -> list[Delta]:
        call, self._call = self._call, None
        assert call is not None
        steps = call.finish()
        if call.named:
            self.calls += 1
            return [Delta("tool", tool=step) for step in steps]
        self._state = "content"
        return [Delta("content", TOOL + call.body + (END_TOOL if complete else ""))]

    def _text(self, text: str) -> list[Delta]:
        if self._call is not None:
            return [Delta("tool", tool=step) for step in self._call.push(text)]
        if self._trim:
            text = text.lstrip()
        if not text:
            return []
        self._trim = False
        text = self._spaces + text
        shown = text.rstrip() if self._state == "reasoning" or self._tools is not None else text
        self._spaces = text[len(shown) :]
        kind: Literal["content", "reasoning"] = "reasoning" if self._state == "reasoning" else "content"
        return [Delta(kind, shown)] if shown else []
