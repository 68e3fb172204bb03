"""The route POST /v1/chat/completions."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import Request

from services.router.gateway.chat_choice import ChatChoice, ChatChunks
from services.router.gateway.chat_rules import chat_rules, check_tools
from services.router.gateway.context import GatewayContext
from services.router.gateway.event_ids import EventIds
from services.router.gateway.off_loop import off_loop
from services.router.gateway.output_tags import TAGS, THINK
from services.router.gateway.prompts import chat_ids, chat_prompt
from services.router.gateway.request_body import read_model
from services.router.gateway.response import Envelope, usage, write_usage
from services.router.gateway.resumption import Asked, Resumption
from services.router.gateway.schemas import ChatRequest
from services.router.gateway.streaming import Client, GenerationResponse, run_all
from services.router.requests.choice_stream import TextRules
from services.router.requests.marked_text import MarkedText, ends_with_own


async def chat_completions(gateway: GatewayContext, request: Request) -> GenerationResponse:
    """Checks the request and prepares its choices; the response generates them while the client waits."""
    body = await read_model(request, ChatRequest)
    asked = gateway.asked_to_resume(request, body)
    choices, resumption = await prepare_chat(gateway, body, request.state.request_id, asked)
    return GenerationResponse(
        partial(stream if body.stream else whole, gateway, body, choices, resumption), stream=bool(body.stream)
    )


async def prepare_chat(
    gateway: GatewayContext, body: ChatRequest, request_id: str, asked: Asked | None = None
) -> tuple[list[ChatChoice], Resumption | None]:
    """Returns the choices of a chat, of which nothing is generated yet, and how it is gone on with, if it may be.

    Raises RouterError.
    """
    gateway.check_model(body.model)
    prompt, prompt_ids = await chat_prompt_ids(gateway, body)
    max_tokens = body.max_completion_tokens or body.max_tokens
    thinking = ends_with_own(prompt, THINK)
    rules = await chat_rules(gateway.serving.assets, body, thinking=thinking)
    requests = gateway.generation_requests(
        body, [prompt_ids], max_tokens, request_id, "messages", rules, asked.seed if asked else None
    )
    for other in requests[1:]:
        other.sampling.ClearField("prompt_logprobs")  # the same for all
    gateway.check_open()
    requests, resumption = gateway.resumed(asked, requests)
    choice_streams = gateway.choice_streams(requests, text_rules(gateway, body))
    choices = [ChatChoice(one, i, body, thinking=thinking) for i, one in enumerate(choice_streams)]
    return choices, resumption


async def chat_prompt_ids(gateway: GatewayContext, body: ChatRequest) -> tuple[MarkedText, list[int]]:
    """Returns the prompt of a chat as text and as ids. Raises InvalidRequest."""
    check_tools(body)
    prompt = await chat_prompt(gateway.serving, body.messages, body, body.tool_choice)
    limit = gateway.serving.context_limit if body.truncate_prompt_tokens is None else None
    return prompt, await chat_ids(gateway.serving, prompt, limit)


def text_rules(gateway: GatewayContext, body: ChatRequest) -> TextRules:
    """Returns how ids become text: LongCat's tags are marked, even if the tokenizer calls them special."""
    added = gateway.serving.assets.vocabulary.added
    return TextRules(
        stop=body.stops,
        include_stop=bool(body.include_stop_str_in_output),
        skip_special_tokens=body.skip_special_tokens is not False,
        tags={added[tag]: tag for tag in TAGS if tag in added},
    )


async def stream(
    gateway: GatewayContext,
    body: ChatRequest,
    choices: list[ChatChoice],
    resumption: Resumption | None,
    client: Client,
) -> None:
    """Writes the events of every choice as they come; then the usage, if requested, and the end."""
    envelope = Envelope.of("chatcmpl", "chat.completion.chunk", gateway.serving.assets.name, resumption)
    ids = EventIds(resumption) if resumption is not None else None
    chunks = [ChatChunks(envelope, choice, body.stream_options, ids) for choice in choices]
    await run_all([one.write(client) for one in chunks])
    await write_usage(client, envelope, body.stream_options, [choice.choice_stream for choice in choices], ids)
    await client.end()


async def whole(
    gateway: GatewayContext,
    body: ChatRequest,
    choices: list[ChatChoice],
    resumption: Resumption | None,
    client: Client,
) -> None:
    envelope = Envelope.of("chatcmpl", "chat.completion", gateway.serving.assets.name, resumption)
    await run_all([choice.run() for choice in choices])
    choice_streams = [choice.choice_stream for choice in choices]
    envelope.fingerprint = choice_streams[0].numerics_class
    answer: dict[str, Any] = {
        **envelope.fields(),
        "choices": [choice.message() for choice in choices],
        "usage": usage(choice_streams),
        **(await off_loop(choices[0].prompt_scores) if body.prompt_logprobs is not None else {}),
    }
    await client.whole(answer)
