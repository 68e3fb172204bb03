"""A prompt that ends within its last message, which the answer continues."""

from __future__ import annotations

from collections.abc import Sequence

from services.router.gateway.chat_messages import ChatMessage
from services.router.gateway.schemas import TemplateOptions
from services.router.requests.errors import InvalidRequest
from services.router.requests.marked_text import MarkedText
from services.router.requests.template import Message

END = "\ue000continued\ue000"  # of the last message: private characters, which no request means


def check_continued(messages: Sequence[ChatMessage], options: TemplateOptions) -> str | None:
    """Returns the text to be continued; None when the request asks for a message of its own. Raises InvalidRequest."""
    if not options.continue_final_message:
        return None
    if options.add_generation_prompt:
        raise InvalidRequest(
            "continue_final_message and add_generation_prompt cannot both be true.", param="continue_final_message"
        )
    last = messages[-1]
    text = last.content if isinstance(last.content, str) else "".join(part.text or "" for part in last.content or ())
    if last.role != "assistant" or not text.strip():
        raise InvalidRequest(
            "continue_final_message needs a last message of the assistant with text.", param="continue_final_message"
        )
    return text


def with_end(messages: list[Message]) -> list[Message]:
    """Returns rendered messages whose last one has a mark at its end. Its text alone may stand elsewhere, too."""
    *before, last = messages
    return [*before, last | {"content": last["content"] + END}]


def cut_at_end(prompt: MarkedText) -> MarkedText:
    """Returns a rendered chat up to the mark. Raises InvalidRequest where the template has changed it."""
    place = prompt.rfind(END)
    if place < 0:
        raise InvalidRequest(
            "The chat template changes the last message, so it cannot be continued.", param="continue_final_message"
        )
    return prompt[:place]
