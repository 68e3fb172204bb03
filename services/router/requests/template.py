"""Renders messages to prompt text with the checkpoint's chat templates, in a sandbox, as transformers does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Template, TemplateError
from jinja2.meta import find_undeclared_variables

from services.router.requests.errors import InvalidRequest
from services.router.requests.marked_text import MarkedText, own_text
from services.router.requests.marking_environment import MarkingEnvironment

Message = dict[str, Any]

DEFAULT, WITH_TOOLS = "default", "tool_use"  # names of templates; transformers takes the second when there are tools
OWN_FIELDS = frozenset({"role", "type"})  # have one of a few values each; templates build control tokens from roles
NOT_FOR_REQUESTS = frozenset({"messages", "tools", "documents", "tool_choice", "add_generation_prompt"})
FAILURES = (TemplateError, ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class ChatTemplate:
    """A compiled chat template. `tokens` are its variables that hold special tokens: `bos_token` and so on.

    Raises jinja2's TemplateError.
    """

    def __init__(self, source: str, tokens: Mapping[str, str]) -> None:
        environment = MarkingEnvironment()
        self._template: Template = environment.from_string(source)
        self._tokens = {name: own_text(text) for name, text in tokens.items()}
        self.text = "\n".join(_strings(environment.literals))  # all that it may write itself
        read = find_undeclared_variables(environment.parse(source))
        if "lipsum" in read:
            raise TemplateError("it uses lipsum, which is random: the same request would give different prompts")
        self.variables = read - environment.globals.keys() - tokens.keys() - NOT_FOR_REQUESTS

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> MarkedText:
        """Returns the prompt's text. Raises InvalidRequest when the template rejects the messages."""
        given = _request_data(list(tools)) if tools else None
        options = {"add_generation_prompt": add_generation_prompt, **_request_data(variables)}
        chat = [_message_data(message) for message in messages]
        try:
            try:
                return self._text(chat, given, options)
            except FAILURES:
                # A template may need what a tool may lack.
                completed = [_completed(tool) for tool in given or ()]
                if completed == (given or []):
                    raise
                return self._text(chat, completed, options)
        except FAILURES as error:
            raise InvalidRequest(
                f"The chat template rejected the messages: {str(error)[:200]}", param="messages"
            ) from None

    def _text(self, chat: list[Message], tools: list[Any] | None, options: Mapping[str, Any]) -> MarkedText:
        text = self._template.render(messages=chat, tools=tools, documents=None, **self._tokens, **options)
        assert isinstance(text, MarkedText)
        return text


@dataclass(frozen=True, slots=True)
class ChatTemplates:
    """A model's chat templates by name."""

    named: Mapping[str, ChatTemplate]

    def choose(self, *, tools: bool) -> ChatTemplate:
        """Returns the template of a chat with or without tools. Raises InvalidRequest if there is none."""
        return self.named[self.choose_name(tools=tools)]

    def choose_name(self, *, tools: bool) -> str:
        """Returns its name. Raises InvalidRequest if there is none."""
        chosen = WITH_TOOLS if tools and WITH_TOOLS in self.named else DEFAULT
        if chosen not in self.named:
            raise InvalidRequest(
                f"This model has no chat template named {DEFAULT}, only {', '.join(sorted(self.named))}.",
                code="no_chat_template",
            )
        return chosen


def _message_data(message: Message) -> Message:
    """Marks what a template may use as control tokens: roles. What a message says is text, whoever says it."""
    return {
        key: own_text(value) if key in OWN_FIELDS and isinstance(value, str) else _request_data(value)
        for key, value in message.items()
    }


def _request_data(value: Any) -> Any:
    """Returns data of a request with every string as text that is not the template's own."""
    if isinstance(value, str):
        return MarkedText(value)
    if isinstance(value, dict):
        return {_request_data(key): _request_data(item) for key, item in value.items()}
    return [_request_data(item) for item in value] if isinstance(value, (list, tuple)) else value


def _completed(tool: dict[str, Any]) -> dict[str, Any]:
    """Adds what a function may lack: a description, and parameters when it has none."""
    function = tool.get("function")
    if not isinstance(function, dict):
        return tool
    missing = {"description": MarkedText(), "parameters": {"type": "object", "properties": {}}}
    return {**tool, "function": missing | function}


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in (*value, *value.values()):
            yield from _strings(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings(item)
