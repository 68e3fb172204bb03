"""Turns a checked request body into prompt ids: chat template, tokenizer, and the checks that need them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from starlette.concurrency import run_in_threadpool

from services.router.gateway.schemas import MAX_PROMPTS, ChatMessage, CompletionRequest, NamedTool, Tool, ToolCall
from services.router.requests.assets import ModelAssets
from services.router.requests.context_limit import ContextLimit
from services.router.requests.errors import ContextTooLong, InvalidRequest
from services.router.requests.template import Message, Segment

SAME_ROLE = {"developer": "system", "function": "tool"}  # a newer and an older name of roles that templates know
MAX_SHRINKAGE = 4  # times that a normalizer may shorten a text
LONG_TEXT = 4096  # characters; longer texts are encoded off the event loop


async def chat_segments(
    assets: ModelAssets,
    messages: Sequence[ChatMessage],
    tools: Sequence[Tool] | None,
    tool_choice: str | NamedTool | None = None,
    *,
    add_generation_prompt: bool = True,
) -> list[Segment]:
    """Renders a chat to prompt text. Raises InvalidRequest."""
    if assets.template is None:
        raise InvalidRequest("This model has no chat template; use /v1/completions.", code="unsupported_operation")
    offered = None if tool_choice == "none" else tools
    plain = [plain_message(message, i) for i, message in enumerate(messages)]
    return assets.template.render(
        plain,
        tools=[tool.model_dump(exclude_none=True) for tool in offered or []],
        add_generation_prompt=add_generation_prompt,
        tool_choice=tool_choice.model_dump() if isinstance(tool_choice, NamedTool) else tool_choice,
    )


async def chat_ids(assets: ModelAssets, segments: list[Segment], limit: ContextLimit | None = None) -> list[int]:
    """Returns the ids of a rendered chat. Raises ContextTooLong when it is far beyond `limit` tokens."""
    text = "".join(part for part, _ in segments)
    check_size(assets, text, limit, param="messages")
    if len(text) > LONG_TEXT:
        return await run_in_threadpool(assets.encode_segments, segments)
    return assets.encode_segments(segments)


async def text_ids(
    assets: ModelAssets, text: str, limit: ContextLimit | None = None, *, add_special_tokens: bool = True
) -> list[int]:
    """Returns the ids of a raw prompt. Raises ContextTooLong when it is far beyond `limit` tokens."""
    check_size(assets, text, limit, param="prompt")
    if len(text) > LONG_TEXT:
        return await run_in_threadpool(assets.encode, text, add_special_tokens=add_special_tokens)
    return assets.encode(text, add_special_tokens=add_special_tokens)


def check_size(assets: ModelAssets, text: str, limit: ContextLimit | None, *, param: str) -> None:
    """Raises ContextTooLong for a text that no tokenizer could make fit, before seconds are spent on encoding it."""
    least = len(text) // (MAX_SHRINKAGE * assets.vocabulary.longest)
    if limit is not None and least > limit.tokens:
        raise ContextTooLong(least, 0, limit, param=param, at_least=True)


async def completion_ids(assets: ModelAssets, body: CompletionRequest, limit: ContextLimit) -> list[list[int]]:
    """Returns the ids of every prompt of a completion request. Raises InvalidRequest."""
    prompts = split_prompts(body.prompt)
    if not 1 <= len(prompts) <= MAX_PROMPTS:
        raise InvalidRequest(f"prompt: between 1 and {MAX_PROMPTS} prompts.", param="prompt")
    special = body.add_special_tokens is not False
    ids = [
        await text_ids(assets, prompt, limit, add_special_tokens=special) if isinstance(prompt, str) else list(prompt)
        for prompt in prompts
    ]
    if any(not prompt for prompt in prompts) or any(not one for one in ids):
        raise InvalidRequest("prompt must not be empty.", param="prompt", code="empty_prompt")
    if any(token >= assets.vocab_size for one in ids for token in one):
        raise InvalidRequest(
            f"prompt: token ids must be below {assets.vocab_size}.", param="prompt", code="value_out_of_range"
        )
    return ids


def split_prompts(prompt: str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]]) -> list[str | Sequence[int]]:
    """Returns one entry per prompt, whichever of the four forms was sent."""
    if isinstance(prompt, str):
        return [prompt]
    if prompt and isinstance(prompt[0], int):
        return [[token for token in prompt if isinstance(token, int)]]
    return [one for one in prompt if not isinstance(one, int)]


def check_context(prompt: int, max_tokens: int | None, limit: ContextLimit, *, param: str) -> int:
    """Returns the most tokens to generate. Raises ContextTooLong with the counts when they cannot fit."""
    if prompt >= limit.tokens:
        raise ContextTooLong(prompt, 0, limit, param=param)
    if max_tokens is None:
        return limit.tokens - prompt
    if prompt + max_tokens > limit.tokens:
        raise ContextTooLong(prompt, max_tokens, limit, param="max_tokens")
    return max_tokens


def plain_message(message: ChatMessage, number: int) -> Message:
    """Returns a message as templates expect it: content is text, tool arguments are objects."""
    plain: Message = {"role": SAME_ROLE.get(message.role, message.role), "content": _content(message, number)}
    for field in ("name", "tool_call_id"):
        if (value := getattr(message, field)) is not None:
            plain[field] = value
    if (reasoning := message.reasoning or message.reasoning_content) is not None:
        plain["reasoning"] = plain["reasoning_content"] = reasoning
    if message.tool_calls:
        plain["tool_calls"] = [_call(call) for call in message.tool_calls]
    return plain


def _content(message: ChatMessage, number: int) -> str:
    if message.content is None:
        if message.role != "assistant":
            raise InvalidRequest(
                f"messages[{number}].content is required.",
                param=f"messages[{number}].content",
                code="missing_required_parameter",
            )
        return ""
    if isinstance(message.content, str):
        return message.content
    for part in message.content:
        if part.type not in ("text", "input_text") or part.text is None:
            raise InvalidRequest(
                f"messages[{number}].content: this model takes only parts of type text.",
                param=f"messages[{number}].content",
                code="unsupported_content_type",
            )
    return "".join(part.text or "" for part in message.content)


def _call(call: ToolCall) -> dict[str, Any]:
    arguments = call.function.arguments
    if isinstance(arguments, str):
        try:
            parsed = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            parsed = arguments
        arguments = parsed
    return {"id": call.id, "type": "function", "function": {"name": call.function.name, "arguments": arguments}}
