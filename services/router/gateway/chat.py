"""The route POST /v1/chat/completions."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import Request

from services.router.gateway.chat_choice import ChatChoice, ChatChunks
from services.router.gateway.chat_rules import chat_rules, check_tools
from services.router.gateway.context import GatewayContext
from services.router.gateway.off_loop import off_loop
from services.router.gateway.output_tags import TAGS, THINK
from services.router.gateway.prompts import chat_ids, chat_prompt
from services.router.gateway.request_body import read_model
from services.router.gateway.response import Envelope, usage
from services.router.gateway.schemas import ChatRequest
from services.router.gateway.streaming import Client, GenerationResponse, run_all
from services.router.requests.choice_stream import TextRules
from services.router.requests.marked_text import MarkedText, ends_with_own


async def chat_completions(gateway: GatewayContext, request: Request) -> GenerationResponse:
    """Checks the request and prepares its choices; the response generates them while the client waits."""
    body = await read_model(request, ChatRequest)
    choices = await prepare_chat(gateway, body, request.state.request_id)
    return GenerationResponse(
        partial(stream if body.stream else whole, gateway, body, choices), stream=bool(body.stream)
    )


async def prepare_chat(gateway: GatewayContext, body: ChatRequest, request_id: str) -> list[ChatChoice]:
    """Returns the choices of a chat, of which nothing is generated yet. Raises RouterError."""
    gateway.check_model(body.model)
    prompt, prompt_ids = await chat_prompt_ids(gateway, body)
    max_tokens = body.max_completion_tokens or body.max_tokens
    thinking = ends_with_own(prompt, THINK)
    rules = await chat_rules(gateway.serving.assets, body, thinking=thinking)
    requests = gateway.generation_requests(body, [prompt_ids], max_tokens, request_id, "messages", rules)
    for other in requests[1:]:
        other.sampling.ClearField("prompt_logprobs")  # the same for all
    gateway.check_open()
    choice_streams = gateway.choice_streams(requests, text_rules(gateway, body))
    return [ChatChoice(choice_stream, i, body, thinking=thinking) for i, choice_stream in enumerate(choice_streams)]


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


async def stream(gateway: GatewayContext, body: ChatRequest, choices: list[ChatChoice], client: Client) -> None:
    """Writes the events of every choice as they come; then the usage, if requested, and the end."""
    envelope = Envelope("chatcmpl", "chat.completion.chunk", gateway.serving.assets.name)
    chunks = [ChatChunks(envelope, choice, body.stream_options) for choice in choices]
    await run_all([one.write(client) for one in chunks])
    if body.stream_options and body.stream_options.include_usage:
        await client.events(envelope.event([], usage=usage([choice.choice_stream for choice in choices])))
    await client.end()


async def whole(gateway: GatewayContext, body: ChatRequest, choices: list[ChatChoice], client: Client) -> None:
    envelope = Envelope("chatcmpl", "chat.completion", gateway.serving.assets.name)
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
