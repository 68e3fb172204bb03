"""One answer as a message with blocks, whole or as the events of a stream."""

from __future__ import annotations

import hashlib
from typing import Any

from pydantic_core import from_json

from services.router.gateway.argument_values import is_whole
from services.router.gateway.chat_choice import ChatChoice
from services.router.gateway.json_bytes import json_bytes
from services.router.gateway.messages_api.objects import (
    AnswerBlock,
    MessageObject,
    MessageUsage,
    OutputTokens,
    StopReason,
    TextBlock,
    ThinkingBlock,
    ToolUseBlock,
)
from services.router.gateway.sections import Section, Step

CALL_PREFIX, TOOL_USE_PREFIX = "call_", "toolu_"


class Answer:
    """The message that one choice becomes. `shows_thinking`: thinking blocks have their text."""

    def __init__(self, choice: ChatChoice, model: str, *, shows_thinking: bool) -> None:
        self._choice = choice
        self._shows_thinking = shows_thinking
        prompt = len(choice.choice_stream.prompt_ids)
        self._message = MessageObject(model=model, usage=MessageUsage(input_tokens=prompt))
        self._begun = self._called = self._broken = False

    def whole(self, sections: list[Section]) -> dict[str, Any]:
        """Returns the finished message."""
        self._message.content = [self._block(section) for section in sections]
        self._called = any(section.kind == "tool" for section in sections)
        self._message.stop_reason, self._message.stop_sequence = self._stop()
        self._message.usage = self._usage()
        return self._message.model_dump()

    def begin(self) -> bytes:
        """Returns the first events; none when they were sent."""
        if self._begun:
            return b""
        self._begun = True
        usage = self._usage()
        self._message.usage = MessageUsage(
            input_tokens=usage.input_tokens, cache_read_input_tokens=usage.cache_read_input_tokens
        )
        return event("message_start", message=self._message.model_dump())

    def steps(self, steps: list[Step]) -> bytes:
        return self.begin() + b"".join(self._step(step) for step in steps)

    def end(self) -> bytes:
        """Returns the last events of an answer that has finished."""
        reason, sequence = self._stop()
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        last = event("message_delta", delta=delta, usage=self._usage().model_dump())
        return self.begin() + last + event("message_stop")

    def _step(self, step: Step) -> bytes:
        section = step.section
        if step.what == "open":
            self._called = self._called or section.kind == "tool"
            return event("content_block_start", index=section.number, content_block=_empty(section).model_dump())
        if step.what == "close":
            self._broken = self._broken or (section.kind == "tool" and not is_whole(section.text))
            signature = {"type": "signature_delta", "signature": signature_of(section.text)}
            signed = _delta(section, signature) if section.kind == "reasoning" else b""
            return signed + event("content_block_stop", index=section.number)
        if section.kind == "content":
            return _delta(section, {"type": "text_delta", "text": step.text})
        if section.kind == "tool":
            return _delta(section, {"type": "input_json_delta", "partial_json": step.text})
        return _delta(section, {"type": "thinking_delta", "thinking": step.text}) if self._shows_thinking else b""

    def _block(self, section: Section) -> AnswerBlock:
        block = _empty(section)
        if isinstance(block, TextBlock):
            block.text = section.text
        elif isinstance(block, ThinkingBlock):
            block.thinking = section.text if self._shows_thinking else ""
            block.signature = signature_of(section.text)
        else:
            block.input = input_of(section.text)
            self._broken = self._broken or not is_whole(section.text)
        return block

    def _stop(self) -> tuple[StopReason, str | None]:
        finish, stop = self._choice.finish_reason, self._choice.choice_stream.stop_reason
        if finish == "length":
            return "max_tokens", None
        if isinstance(stop, str):
            return "stop_sequence", stop
        # A client is to run no call whose arguments the model has not finished.
        return ("tool_use" if self._called and not self._broken else "end_turn"), None

    def _usage(self) -> MessageUsage:
        choice_stream = self._choice.choice_stream
        cached = choice_stream.cached_tokens
        return MessageUsage(
            input_tokens=choice_stream.prompt_tokens - cached,  # in this API these are the others
            cache_read_input_tokens=cached,
            output_tokens=choice_stream.completion_tokens,
            output_tokens_details=OutputTokens(thinking_tokens=choice_stream.reasoning_tokens),
        )


def event(kind: str, **fields: Any) -> bytes:
    """Returns one server-sent event: clients read its type from both lines."""
    return b"event: " + kind.encode() + b"\ndata: " + json_bytes({"type": kind, **fields}) + b"\n\n"


def signature_of(thought: str) -> str:
    """Returns the checksum of a thought. Clients pass back thinking blocks only with a signature."""
    return hashlib.blake2b(thought.encode(), digest_size=16).hexdigest()


def input_of(arguments: str) -> dict[str, Any]:
    """Returns a call's arguments as an object, as far as they are one: the token limit may have cut them."""
    try:
        value = from_json(arguments, allow_partial="trailing-strings") if arguments else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _empty(section: Section) -> AnswerBlock:
    if section.kind == "content":
        return TextBlock()
    if section.kind == "reasoning":
        return ThinkingBlock()
    return ToolUseBlock(id=TOOL_USE_PREFIX + section.call_id.removeprefix(CALL_PREFIX), name=section.name)


def _delta(section: Section, delta: dict[str, Any]) -> bytes:
    return event("content_block_delta", index=section.number, delta=delta)
