"""Turns a checked request body into prompt ids: chat template, tokenizer, and the checks that need them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from starlette.concurrency import run_in_threadpool

from services.router.gateway.continued_message import check_continued, cut_at_end, with_end
from services.router.gateway.messages import plain_messages
from services.router.gateway.output_schemas import ToolChoice
from services.router.gateway.schemas import MAX_PROMPTS, ChatMessage, CompletionRequest, ContentPart, TemplateOptions
from services.router.gateway.template_variables import template_variables, tool_choice_variable
from services.router.requests.assets import ModelAssets
from services.router.requests.context_limit import ContextLimit
from services.router.requests.errors import ContextTooLong, InvalidRequest
from services.router.requests.marked_text import MarkedText

MAX_SHRINKAGE = 4  # times that a normalizer may shorten a text
LONG_TEXT = 4096  # characters; longer texts are rendered and encoded off the event loop
PART_SIZE = 64  # characters that take as long as one part of a message
MANY_MESSAGES = 64  # more of them are rendered off the event loop


async def chat_prompt(
    assets: ModelAssets,
    messages: Sequence[ChatMessage],
    options: TemplateOptions,
    tool_choice: ToolChoice | None = None,
) -> MarkedText:
    """Renders a chat to prompt text. Raises InvalidRequest."""
    if assets.templates is None:
        raise InvalidRequest(
            "This model has no chat template: it continues text. Use /v1/completions, or add a chat_template.jinja to"
            " its directory.",
            code="no_chat_template",
        )
    tools = [] if tool_choice == "none" else [tool.as_sent for tool in options.tools or []]
    template = assets.templates.choose(tools=bool(tools))
    continued, long = check_continued(messages, options), _is_long(messages, tools)
    plain = await run_in_threadpool(plain_messages, messages) if long else plain_messages(messages)
    render = partial(
        template.render,
        plain if continued is None else with_end(plain),
        tools=tools,
        add_generation_prompt=options.add_generation_prompt is not False and continued is None,
        **tool_choice_variable(tool_choice),
        **template_variables(options, template.variables),
    )
    prompt = await run_in_threadpool(render) if long else render()
    return prompt if continued is None else cut_at_end(prompt)


async def chat_ids(assets: ModelAssets, prompt: MarkedText, limit: ContextLimit | None = None) -> list[int]:
    """Returns the ids of a rendered chat. Raises ContextTooLong when it is far beyond `limit` tokens."""
    check_size(assets, prompt, limit, param="messages")
    long = len(prompt) > LONG_TEXT
    ids = await run_in_threadpool(assets.prompts.encode, prompt) if long else assets.prompts.encode(prompt)
    if not ids:
        raise InvalidRequest("The chat template made an empty prompt of these messages.", param="messages")
    return ids


def _is_long(messages: Sequence[ChatMessage], tools: Sequence[Any]) -> bool:
    """Whether rendering may take so long that it does not belong on the event loop."""
    parts = (part for message in messages for part in (message.content, message.reasoning, message.reasoning_content))
    return (
        sum(map(_size, parts)) > LONG_TEXT
        or bool(tools)
        or any(message.tool_calls for message in messages)
        or len(messages) > MANY_MESSAGES
    )


def _size(part: str | Sequence[ContentPart] | None) -> int:
    if part is None or isinstance(part, str):
        return len(part or "")
    return sum(PART_SIZE + len(one.text or "") for one in part)


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
    room = limit if body.truncate_prompt_tokens is None else None
    ids = [
        await text_ids(assets, prompt, room, add_special_tokens=special) if isinstance(prompt, str) else list(prompt)
        for prompt in prompts
    ]
    if any(not prompt for prompt in prompts) or any(not one for one in ids):
        raise InvalidRequest("prompt must not be empty.", param="prompt", code="empty_prompt")
    if max(map(max, ids)) >= assets.vocab_size:
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


def truncated(prompt: Sequence[int], tokens: int | None, max_tokens: int | None, limit: ContextLimit) -> Sequence[int]:
    """Returns the last `tokens` of a prompt, of -1 as many as leave room for the answer; all of it when None."""
    if tokens is None:
        return prompt
    most = tokens if tokens > 0 else max(1, limit.tokens - (max_tokens or 1))
    return prompt[-most:]


def check_context(prompt: int, max_tokens: int | None, limit: ContextLimit, *, param: str) -> int:
    """Returns the most tokens to generate. Raises ContextTooLong with the counts when they cannot fit."""
    if prompt >= limit.tokens:
        raise ContextTooLong(prompt, 0, limit, param=param)
    if max_tokens is None:
        return limit.tokens - prompt
    if prompt + max_tokens > limit.tokens:
        raise ContextTooLong(prompt, max_tokens, limit, param="max_tokens")
    return max_tokens
