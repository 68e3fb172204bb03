"""POST /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import Request
from starlette.types import Send

from services.router.gateway.chat import chat_prompt_ids, prepare_chat
from services.router.gateway.context import GatewayContext
from services.router.gateway.field_names import FieldNames
from services.router.gateway.messages_api.answer import Answer, event
from services.router.gateway.messages_api.errors import error_body
from services.router.gateway.messages_api.schemas import CountTokensRequest, MessagesRequest
from services.router.gateway.messages_api.translation import chat_request
from services.router.gateway.off_loop import off_loop
from services.router.gateway.request_body import read_model
from services.router.gateway.resumption import refuse_to_resume
from services.router.gateway.schemas import ChatRequest
from services.router.gateway.sections import SectionReader
from services.router.gateway.streaming import ChunkWriter, Client, GenerationResponse
from services.router.requests.errors import RouterError

FEW_MESSAGES = 64  # more of them, or of their blocks, are translated off the event loop


class MessagesClient(Client):
    """A client of Anthropic's API: pings and errors in its form."""

    ping = event("ping")
    done = b""

    def __init__(self, send: Send, writer: ChunkWriter | None = None, *, request_id: str) -> None:
        super().__init__(send, writer)
        self._request_id = request_id

    def error_body(self, error: RouterError) -> dict[str, Any]:
        return error_body(error.status, error.message, self._request_id)

    def error_event(self, error: RouterError) -> bytes:
        body = self.error_body(error)
        return event(**({"kind": body.pop("type")} | body))


async def messages(gateway: GatewayContext, request: Request) -> GenerationResponse:
    """Checks the request and prepares its answer; the response generates it while the client waits."""
    refuse_to_resume(request)
    body = await read_model(request, MessagesRequest)
    gateway.check_model(body.model)
    chat, names = await _chat(body)
    request_id = request.state.request_id
    with names.of_the_caller():
        (choice,), _ = await prepare_chat(gateway, chat, request_id)
    shows = body.thinking is None or body.thinking.display != "omitted"
    answer = Answer(choice, gateway.serving.assets.name, shows_thinking=shows)
    produce = partial(stream if body.stream else whole, answer, SectionReader(choice, names))
    client = partial(MessagesClient, request_id=request_id)
    return GenerationResponse(produce, stream=bool(body.stream), client=client)


async def count_tokens(gateway: GatewayContext, request: Request) -> dict[str, int]:
    """Returns how many tokens the prompt of a request would have."""
    body = await read_model(request, CountTokensRequest)
    gateway.check_model(body.model)
    chat, names = await _chat(body)
    with names.of_the_caller():
        _, ids = await chat_prompt_ids(gateway, chat)
    return {"input_tokens": len(ids)}


async def _chat(body: CountTokensRequest) -> tuple[ChatRequest, FieldNames]:
    blocks = sum(1 if isinstance(one.content, str) else len(one.content) for one in body.messages)
    if max(blocks, len(body.messages)) > FEW_MESSAGES:
        return await off_loop(chat_request, body)
    return chat_request(body)


async def whole(answer: Answer, reader: SectionReader, client: Client) -> None:
    await reader.run()
    await client.whole(answer.whole(reader.sections))


async def stream(answer: Answer, reader: SectionReader, client: Client) -> None:
    await reader.stream(client, answer.steps)
    await client.last(answer.end())
