"""A prompt that ends within its last message, which the answer continues. As transformers does it."""

from __future__ import annotations

from collections.abc import Sequence

from services.router.gateway.schemas import ChatMessage, TemplateOptions
from services.router.requests.errors import InvalidRequest
from services.router.requests.marked_text import MarkedText


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


def cut_after(prompt: MarkedText, text: str) -> MarkedText:
    """Returns a rendered chat up to the end of its last message's text. Raises InvalidRequest where it has none."""
    place = prompt.rfind(text.strip())
    if place < 0:
        raise InvalidRequest(
            "The chat template changes the last message, so it cannot be continued.", param="continue_final_message"
        )
    # Templates may strip a message; what they leave of the white space at its end stays.
    whole = text.lstrip()
    end = place + (len(whole) if prompt[place : place + len(whole)] == whole else len(text.strip()))
    return prompt[:end]
