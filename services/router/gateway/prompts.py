"""Turns a checked request body into prompt ids: chat template, tokenizer, and the checks that need them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from services.router.gateway.chat_messages import ChatMessage, ContentPart
from services.router.gateway.continued_message import check_continued, cut_at_end, with_end
from services.router.gateway.json_bytes import json_bytes
from services.router.gateway.messages import plain_messages
from services.router.gateway.off_loop import off_loop
from services.router.gateway.output_schemas import ToolChoice
from services.router.gateway.schemas import MAX_PROMPTS, CompletionRequest, TemplateOptions
from services.router.gateway.template_variables import template_variables, tool_choice_variable
from services.router.requests.assets import ModelAssets
from services.router.requests.choice_stream import ServingContext
from services.router.requests.context_limit import ContextLimit
from services.router.requests.errors import ContextTooLong, InvalidRequest
from services.router.requests.marked_text import MarkedText

MAX_SHRINKAGE = 4  # times that a normalizer may shorten a text
LONG_TEXT = 4096  # characters; longer texts are encoded off the event loop
PART_SIZE = 64  # characters that take as long as one part of a message, or a message
MAX_SEQUENCES = 128  # of a request: prompts times n


async def chat_prompt(
    serving: ServingContext,
    messages: Sequence[ChatMessage],
    options: TemplateOptions,
    tool_choice: ToolChoice | None = None,
) -> MarkedText:
    """Renders a chat to prompt text. Raises InvalidRequest."""
    templates = serving.assets.templates
    if templates is None:
        raise InvalidRequest(
            "This model has no chat template: it continues text. Use /v1/completions, or add a chat_template.jinja to"
            " its directory.",
            code="no_chat_template",
        )
    tools = [] if tool_choice == "none" else [tool.as_sent for tool in options.tools or []]
    name = templates.choose_name(tools=bool(tools))
    continued, size = check_continued(messages, options), _size(messages, tools)
    plain = await off_loop(plain_messages, messages) if size > LONG_TEXT else plain_messages(messages)
    prompt = await serving.texts.render(
        name,
        plain if continued is None else with_end(plain),
        size,
        tools=tools,
        add_generation_prompt=options.add_generation_prompt is not False and continued is None,
        variables=tool_choice_variable(tool_choice) | template_variables(options, templates.named[name].variables),
    )
    return prompt if continued is None else cut_at_end(prompt)


async def chat_ids(serving: ServingContext, prompt: MarkedText, limit: ContextLimit | None = None) -> list[int]:
    """Returns the ids of a rendered chat. Raises ContextTooLong when it is far beyond `limit` tokens."""
    check_size(serving.assets, prompt, limit, param="messages")
    long = len(prompt) > LONG_TEXT
    ids = await serving.texts.encode_chat(prompt) if long else serving.assets.prompts.encode(prompt)
    if not ids:
        raise InvalidRequest("The chat template made an empty prompt of these messages.", param="messages")
    return ids


def _size(messages: Sequence[ChatMessage], tools: Sequence[Any]) -> int:
    """About how many characters a template is going to walk through."""
    parts = [part for one in messages for part in (one.content, one.reasoning, one.reasoning_content)]
    calls = [call.function for one in messages for call in one.tool_calls or ()]
    calls += [one.function_call for one in messages if one.function_call]
    arguments = [call.arguments if isinstance(call.arguments, str) else json_bytes(call.arguments) for call in calls]
    written = len(json_bytes(tools)) if tools else 0
    return PART_SIZE * len(messages) + sum(map(_part_size, parts)) + sum(map(len, arguments)) + written


def _part_size(part: str | Sequence[ContentPart] | None) -> int:
    if part is None or isinstance(part, str):
        return len(part or "")
    return sum(PART_SIZE + len(one.text or "") for one in part)


async def text_ids(
    serving: ServingContext,
    text: str,
    limit: ContextLimit | None = None,
    *,
    add_special_tokens: bool = True,
    others: int = 0,
) -> list[int]:
    """Returns the ids of a raw prompt. Raises ContextTooLong when it is far beyond `limit` tokens.

    `others`: characters of the request's other prompts.
    """
    check_size(serving.assets, text, limit, param="prompt")
    if len(text) + others > LONG_TEXT:
        return await serving.texts.encode(text, add_special_tokens=add_special_tokens)
    return serving.assets.encode(text, add_special_tokens=add_special_tokens)


def check_size(assets: ModelAssets, text: str, limit: ContextLimit | None, *, param: str) -> None:
    """Raises ContextTooLong for a text that no tokenizer could make fit, before seconds are spent on encoding it."""
    least = len(text) // (MAX_SHRINKAGE * assets.vocabulary.longest)
    if limit is not None and least > limit.tokens:
        raise ContextTooLong(least, 0, limit, param=param, at_least=True)


async def completion_ids(serving: ServingContext, body: CompletionRequest, limit: ContextLimit) -> list[list[int]]:
    """Returns the ids of every prompt of a completion request. Raises InvalidRequest."""
    prompts = split_prompts(body.prompt)
    if not 1 <= len(prompts) <= MAX_PROMPTS:
        raise InvalidRequest(f"prompt: between 1 and {MAX_PROMPTS} prompts.", param="prompt")
    check_sequences(len(prompts), body.n)
    characters = sum(len(prompt) for prompt in prompts if isinstance(prompt, str))
    special = body.add_special_tokens is not False
    room = limit if body.truncate_prompt_tokens is None else None
    ids = [
        await text_ids(serving, prompt, room, add_special_tokens=special, others=characters - len(prompt))
        if isinstance(prompt, str)
        else list(prompt)
        for prompt in prompts
    ]
    if any(not prompt for prompt in prompts) or any(not one for one in ids):
        raise InvalidRequest("prompt must not be empty.", param="prompt", code="empty_prompt")
    if max(map(max, ids)) >= serving.assets.vocab_size:
        raise InvalidRequest(
            f"prompt: token ids must be below {serving.assets.vocab_size}.", param="prompt", code="value_out_of_range"
        )
    return ids


def check_sequences(prompts: int, n: int | None) -> None:
    """Raises InvalidRequest for a request of more sequences than one may have."""
    if prompts * (n or 1) > MAX_SEQUENCES:
        raise InvalidRequest(
            f"n: {prompts} prompts with {n} choices each are more than {MAX_SEQUENCES} sequences.",
            param="n",
            code="value_out_of_range",
        )


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
