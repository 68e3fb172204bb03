"""What a chat request says about its output beside sampling: a grammar, and a budget of reasoning."""

from __future__ import annotations

from collections.abc import Mapping

from caracal_proto import attention_pb2

from services.router.gateway.off_loop import off_loop
from services.router.gateway.output_grammar import FunctionTool, OutputFormat, output_grammar
from services.router.gateway.output_schemas import AllowedToolChoice, NamedTool
from services.router.gateway.output_tags import END_KEY, END_THINK, END_VALUE, KEY, THINK, VALUE
from services.router.gateway.sampling import FREE, OutputRules
from services.router.gateway.schemas import ChatRequest, CompletionRequest
from services.router.requests.assets import ModelAssets
from services.router.requests.errors import InvalidRequest
from services.router.requests.template import ChatTemplates


def check_tools(body: ChatRequest) -> None:
    """Raises InvalidRequest for a choice of tools that are not there."""
    names = {tool.function.name for tool in body.tools or []}
    choice = body.tool_choice
    if choice in (None, "none", "auto"):
        return
    if not names:
        raise InvalidRequest("tool_choice needs tools.", param="tool_choice")
    if isinstance(choice, NamedTool) and choice.function.name not in names:
        raise InvalidRequest("tool_choice names a function that is not among the tools.", param="tool_choice")
    if isinstance(choice, AllowedToolChoice) and not {one.function.name for one in choice.allowed_tools.tools} <= names:
        raise InvalidRequest("tool_choice allows a function that is not among the tools.", param="tool_choice")


async def chat_rules(assets: ModelAssets, body: ChatRequest, *, thinking: bool) -> OutputRules:
    """Returns the rules of a chat's answer. `thinking`: its prompt has opened a block of reasoning.

    Raises InvalidRequest.
    """
    tools = {
        tool.function.name: FunctionTool(
            schema=tool.function.parameters or {},
            field=f"tools[{number}].function.parameters",
            strict=bool(tool.function.strict),
        )
        for number, tool in enumerate(body.tools or [])
    }
    asked = OutputFormat(
        response_format=body.response_format,
        structured_outputs=body.constraint,
        tools=tools,
        tool_choice=body.tool_choice,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        xml=bool(tools and assets.templates and asks_for_xml(assets.templates, assets.vocabulary.added)),
    )
    ids, budget = assets.vocabulary.added, thinking_budget(body)
    grammar = await off_loop(output_grammar, asked, ids, after_reasoning=thinking)
    if grammar.text:
        check_alone(body, grammar.asked_by)
    if budget is None and not (grammar.text and thinking):
        return OutputRules(grammar.text, grammar.field, grammar.has_lines) if grammar.text else FREE
    if not {THINK, END_THINK} <= ids.keys():
        param = grammar.asked_by or "thinking_token_budget"
        raise InvalidRequest(
            f"{param} is not supported beside this model's reasoning: its tokenizer has no tokens {THINK} and"
            f" {END_THINK}.",
            param=param,
            code="unsupported_parameter",
        )
    reasoning = attention_pb2.Reasoning(begin_id=ids[THINK], end_id=ids[END_THINK], open=thinking, budget=budget)
    return OutputRules(grammar.text, grammar.field, grammar.has_lines, reasoning)


def check_alone(body: ChatRequest, field: str) -> None:
    """Raises InvalidRequest for what a grammar excludes: it begins with the answer, and ends by itself."""
    for name in ("min_tokens", "ignore_eos", "continue_final_message"):
        if getattr(body, name):
            raise InvalidRequest(f"{name} cannot be combined with {field}.", param=name)


def asks_for_xml(templates: ChatTemplates, ids: Mapping[str, int]) -> bool:
    """Whether the model's template asks for calls in XML, whose values only tokens can tell from tags."""
    return KEY in templates.choose(tools=True).text and {KEY, END_KEY, VALUE, END_VALUE} <= ids.keys()


async def completion_rules(body: CompletionRequest) -> OutputRules:
    """Returns the rules of a completion. Raises InvalidRequest."""
    if body.constraint is None and body.response_format is None:
        return FREE
    asked = OutputFormat(response_format=body.response_format, structured_outputs=body.constraint)
    grammar = await off_loop(output_grammar, asked, {}, after_reasoning=False)
    return OutputRules(grammar.text, grammar.field, grammar.has_lines)


def thinking_budget(body: ChatRequest) -> int | None:
    """Returns the most tokens of reasoning, by whichever name. Raises InvalidRequest for two that differ."""
    given = {
        "thinking_token_budget": body.thinking_token_budget,
        "thinking_budget": body.thinking_budget,
        "thinking.budget_tokens": body.thinking.budget_tokens if body.thinking else None,
    }
    found = {name: value for name, value in given.items() if value is not None}
    if len(set(found.values())) > 1:
        raise InvalidRequest(f"{' and '.join(found)} differ.", param=next(iter(found)))
    return next(iter(found.values()), None)
