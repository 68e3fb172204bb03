"""Renders messages to prompt text with the checkpoint's chat template, in a sandbox.

The Jinja environment is set up as in Hugging Face's `apply_chat_template`, without importing it.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import Template, TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from services.router.requests.errors import InvalidRequest

Message = dict[str, Any]
Segment = tuple[str, bool]  # text, and whether its special tokens are control tokens

UNESCAPED_ROLES = frozenset({"assistant"})  # its earlier replies may contain control tokens


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    # Not jinja2's own filter: that one escapes HTML characters.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


class ChatTemplate:
    """A compiled chat template. `specials` are the texts that the tokenizer reads as control tokens."""

    def __init__(self, source: str, *, bos_token: str, eos_token: str, specials: Sequence[str]) -> None:
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        self._template: Template = environment.from_string(source)
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self._specials = sorted(specials, key=len, reverse=True)

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> list[Segment]:
        """Returns the prompt in segments. Raises InvalidRequest when the template rejects the messages."""
        guard = SpecialTokenGuard(self._specials)
        escaped = [message if message["role"] in UNESCAPED_ROLES else guard.escape(message) for message in messages]
        try:
            text = self._template.render(
                messages=escaped,
                tools=list(tools) if tools else None,
                add_generation_prompt=add_generation_prompt,
                **self._tokens,
                **variables,
            )
        except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise InvalidRequest(
                f"The chat template rejected the messages: {str(error)[:200]}", param="messages"
            ) from None
        return guard.segments(text)


class SpecialTokenGuard:
    """Keeps texts of control tokens in users' messages plain text: a mark replaces each while the template runs."""

    def __init__(self, specials: Sequence[str]) -> None:
        self._specials = specials
        self._nonce = secrets.token_hex(8)
        self._escaped: list[str] = []

    def escape(self, message: Message) -> Message:
        content = message.get("content")
        if not isinstance(content, str):
            return message
        for special in self._specials:
            if special in content:
                content = content.replace(special, self._mark(special))
        return {**message, "content": content}

    def segments(self, text: str) -> list[Segment]:
        """Cuts the rendered text at the marks, and puts what they stand for back as plain text."""
        if not self._escaped:
            return [(text, True)]
        segments: list[Segment] = []
        for i, part in enumerate(text.split(f"\ue000{self._nonce}:")):
            number, mark, rest = part.partition("\ue001") if i else ("", "", part)
            if mark:
                segments.append((self._escaped[int(number)], False))
            segments.append((rest, True))
        return [(part, control) for part, control in segments if part]

    def _mark(self, special: str) -> str:
        if special not in self._escaped:
            self._escaped.append(special)
        return f"\ue000{self._nonce}:{self._escaped.index(special)}\ue001"
