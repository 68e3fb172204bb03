"""The grammar of a request's output, in llguidance's JSON form: an answer's format, tool calls, or both. Pure.

Legend of the Lark rules: `answer` is the format that the request asks for, `call` any tool call, TEXT free text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from services.router.gateway.json_grammar import format_grammar
from services.router.gateway.output_schemas import (
    AllowedToolChoice,
    NamedTool,
    ResponseFormat,
    StructuredOutputs,
    ToolChoice,
    forces_call,
)
from services.router.gateway.output_tags import END_THINK, THINK, TOOL
from services.router.gateway.tool_grammar import call_rule
from services.router.requests.errors import InvalidRequest

TEXT = "TEXT: /(?s:.*)/"
SPACE = "SPACE: /[ \\n]{0,4}/"


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionTool:
    """A tool that may be called: the JSON schema of its arguments, which only `strict` makes binding by choice.

    `field`: what the request calls that schema.
    """

    schema: Mapping[str, Any]
    field: str = "tools"
    strict: bool = False


@dataclass(frozen=True, slots=True)
class OutputGrammar:
    """A grammar; none for output that is free. `asked_by`: the field that makes the output follow it.

    `field`: what is wrong where the grammar cannot be used; `has_lines`: that has the grammar's own lines.
    """

    text: str = ""
    asked_by: str = ""
    field: str = ""
    has_lines: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFormat:
    """What a request says about its output. `tools` by name; `xml`: the model's template asks for calls in XML."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    tools: Mapping[str, FunctionTool] = field(default_factory=dict)
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool = True
    xml: bool = False

    @property
    def forced(self) -> bool:
        """Whether a tool must be called."""
        return bool(self.tools) and forces_call(self.tool_choice)

    @property
    def callable(self) -> Mapping[str, FunctionTool]:
        """The tools that may be called."""
        choice = self.tool_choice
        if choice == "none":
            return {}
        if isinstance(choice, NamedTool):
            return {choice.function.name: self.tools[choice.function.name]}
        if isinstance(choice, AllowedToolChoice):
            return {tool.function.name: self.tools[tool.function.name] for tool in choice.allowed_tools.tools}
        return self.tools


def output_grammar(asked: OutputFormat, token_ids: Mapping[str, int], *, after_reasoning: bool) -> OutputGrammar:
    """Returns the grammar of a request's output.

    `token_ids`: of the tags that are tokens. `after_reasoning`: it begins where a block of reasoning has ended.
    Raises InvalidRequest.
    """
    answer, field = format_grammar(asked.response_format, asked.structured_outputs)
    calls, asked_by = asked.callable, field.partition(".")[0]
    if asked.forced:
        if asked_by not in ("", "response_format"):
            raise InvalidRequest(f"{field} cannot be combined with a tool_choice that forces a call.", param=field)
        answer, asked_by = None, "tool_choice"  # such an answer has no content for a response_format to shape
    elif calls and answer is None:
        asked_by = _reason_for_calls(asked)
        calls = calls if asked_by else {}
    if answer is None:
        bound = [tool.field for tool in calls.values() if asked.forced or tool.strict]
        field = bound[0] if len(bound) == 1 else "tools" if bound else asked_by
    if answer is None and not calls:
        return OutputGrammar()
    if calls and answer is None and not asked.forced and TOOL not in token_ids:
        raise InvalidRequest(
            f"{asked_by} is not supported by this model: its tokenizer has no token {TOOL}.",
            param=asked_by,
            code="unsupported_parameter",
        )
    text = _grammar(asked, answer, calls, token_ids, after_reasoning=after_reasoning)
    own = asked.structured_outputs.grammar if asked.structured_outputs is not None else None
    has_lines = own is not None and answer is not None and answer.get("lark_grammar") == own
    return OutputGrammar(text, asked_by, field, has_lines)


def _reason_for_calls(asked: OutputFormat) -> str:
    """The field that constrains calls which the model may make or not; empty if there is none."""
    if isinstance(asked.tool_choice, AllowedToolChoice):
        return "tool_choice"
    if not asked.parallel_tool_calls:
        return "parallel_tool_calls"
    return "tools" if any(tool.strict for tool in asked.callable.values()) else ""


def _grammar(
    asked: OutputFormat,
    answer: Mapping[str, Any] | None,
    calls: Mapping[str, FunctionTool],
    token_ids: Mapping[str, int],
    *,
    after_reasoning: bool,
) -> str:
    def tag(text: str) -> str:
        return f"<[{token_ids[text]}]>" if text in token_ids else json.dumps(text)

    one = isinstance(asked.tool_choice, NamedTool) or not asked.parallel_tool_calls
    some = "call" if one else "call (SPACE call)*"
    if asked.forced:
        start = some
    elif answer is not None:
        start = f"{some} | @answer" if calls else "@answer"
    else:
        tags = [tag(text) for text in (THINK, END_THINK) if text in token_ids]
        text = f"TEXT (({' | '.join(tags)}) TEXT)*" if tags else "TEXT"
        start = f"text call? \ntext: {text}" if one else f"text (call text)* \ntext: {text}"
    rules = [f"start: SPACE body\nbody: {start}" if after_reasoning else f"start: {start}", TEXT, SPACE]
    strict = asked.forced or answer is not None
    for number, (name, tool) in enumerate(calls.items()):
        schema = tool.schema if strict or tool.strict else None
        rules.append(f"call_{number}: " + call_rule(name, schema, tag, xml=asked.xml, field=tool.field))
    if calls:
        rules.append("call: " + " | ".join(f"call_{number}" for number in range(len(calls))))
    grammars = [{"name": "output", "lark_grammar": "\n".join(rules)}]
    return json.dumps({"grammars": grammars + ([{"name": "answer", **answer}] if answer is not None else [])})
