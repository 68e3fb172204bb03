"""The variables that a request sets for the chat template: its own, and thinking in the words of several APIs."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pydantic import BaseModel

from services.router.gateway.output_schemas import ToolChoice
from services.router.gateway.schemas import TemplateOptions
from services.router.requests.errors import InvalidRequest

THINKING, EFFORT = "enable_thinking", "reasoning_effort"


def template_variables(options: TemplateOptions, known: Collection[str]) -> dict[str, Any]:
    """Returns the variables by name. `known`: those that the template reads.

    Raises InvalidRequest for one that the template does not read, since it would have no effect, and for two fields
    that say different things.
    """
    chosen: dict[str, tuple[str, Any]] = {}  # by variable: the field that sets it, and its value
    for name, value in (options.chat_template_kwargs or {}).items():
        _set(chosen, name, f"chat_template_kwargs.{name}", value, known)
    if options.enable_thinking is not None:
        _set(chosen, THINKING, "enable_thinking", options.enable_thinking, known)
    if options.thinking is not None:
        _set(chosen, THINKING, "thinking", options.thinking.type == "enabled", known)
    effort = options.reasoning_effort
    if effort is not None and EFFORT in known:
        _set(chosen, EFFORT, "reasoning_effort", effort, known)
    elif effort is not None:
        _set(chosen, THINKING, "reasoning_effort", effort != "none", known)
    return {name: value for name, (_, value) in chosen.items()}


def tool_choice_variable(choice: ToolChoice | None) -> dict[str, Any]:
    """Returns `tool_choice` for the template; nothing when the request has none, so that a template's default holds."""
    if choice is None:
        return {}
    return {"tool_choice": choice.model_dump() if isinstance(choice, BaseModel) else choice}


def _set(chosen: dict[str, tuple[str, Any]], name: str, field: str, value: Any, known: Collection[str]) -> None:
    param = field[:80]
    if name == THINKING and value is False and name not in known:
        return  # a model that cannot think does not
    if name not in known:
        raise InvalidRequest(
            f"{param}: this model's chat template has no variable {name[:60]} that a request may set.",
            param=param,
            code="unsupported_parameter",
        )
    if name in chosen and chosen[name][1] != value:
        raise InvalidRequest(f"{param} contradicts {chosen[name][0][:80]}.", param=param)
    chosen[name] = field, value
