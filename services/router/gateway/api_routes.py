"""The routes of the API whose bodies are parsed without FastAPI, with the schemas of what goes in and comes out."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import Request
from pydantic import BaseModel

from services.router.gateway import not_offered
from services.router.gateway.chat import chat_completions
from services.router.gateway.completions import completions
from services.router.gateway.context import GatewayContext
from services.router.gateway.messages_api.objects import MessageObject, MessagesErrorBody, TokenCount
from services.router.gateway.messages_api.routes import count_tokens, messages
from services.router.gateway.messages_api.schemas import CountTokensRequest, MessagesRequest
from services.router.gateway.responses_api import stored_routes
from services.router.gateway.responses_api.objects import DeletedResponse, ItemList, ResponseObject
from services.router.gateway.responses_api.routes import responses
from services.router.gateway.responses_api.schemas import ResponsesRequest
from services.router.gateway.schemas import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest
from services.router.gateway.tokenize_routes import detokenize, tokenize

SCHEMA = "#/components/schemas/"
Handler = Callable[[GatewayContext, Request], Coroutine[Any, Any, Any]]


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(BaseModel):
    """Every response that is not a success has this body."""

    error: ErrorDetail


@dataclass(frozen=True)
class Route:
    """One method of one path. `answer`: the model of a success. `streams`: it may come as events instead."""

    path: str
    handler: Handler
    body: type[BaseModel] | None = None
    answer: type[BaseModel] | None = None
    method: str = "POST"
    error: type[BaseModel] = ErrorBody
    statuses: tuple[int, ...] = (400, 404, 413, 415, 503, 504)
    parameters: tuple[dict[str, Any], ...] = ()
    streams: bool = False

    def responses(self) -> dict[int | str, dict[str, Any]]:
        """Returns the responses for the OpenAPI document."""
        found: dict[int | str, dict[str, Any]] = {code: {"model": self.error} for code in self.statuses}
        if self.answer is not None:
            found[200] = {"model": self.answer}
        if self.streams:
            found[200]["content"] = {"text/event-stream": {"schema": {"type": "string"}}}
        return found

    def extra(self) -> dict[str, Any]:
        """Returns the parameters and the body for the OpenAPI document."""
        extra: dict[str, Any] = {"parameters": list(self.parameters)} if self.parameters else {}
        if self.body is not None:
            content = {"application/json": {"schema": {"$ref": SCHEMA + self.body.__name__}}}
            extra["requestBody"] = {"required": True, "content": content}
        return extra


def _parameter(place: str, name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": place, "required": place == "path", "schema": schema}


RESPONSE = "/v1/responses/{response_id}"
RESPONSE_ID = _parameter("path", "response_id", {"type": "string"})
PAGE = (
    _parameter("query", "after", {"type": "string"}),
    _parameter("query", "limit", {"type": "integer", "minimum": 1, "maximum": stored_routes.MAX_LIMIT}),
    _parameter("query", "order", {"type": "string", "enum": ["asc", "desc"]}),
)
_stored = partial(Route, body=None, statuses=(400, 404, 503))
_message = partial(Route, error=MessagesErrorBody)
ROUTES: tuple[Route, ...] = (
    Route("/v1/chat/completions", chat_completions, ChatRequest),
    Route("/v1/completions", completions, CompletionRequest),
    Route("/v1/responses", responses, ResponsesRequest, ResponseObject, streams=True),
    _stored(RESPONSE, stored_routes.retrieve, answer=ResponseObject, method="GET", parameters=(RESPONSE_ID,)),
    _stored(RESPONSE, stored_routes.delete, answer=DeletedResponse, method="DELETE", parameters=(RESPONSE_ID,)),
    _stored(
        RESPONSE + "/input_items",
        stored_routes.input_items,
        answer=ItemList,
        method="GET",
        parameters=(RESPONSE_ID, *PAGE),
    ),
    _message("/v1/messages", messages, MessagesRequest, MessageObject, streams=True),
    _message("/v1/messages/count_tokens", count_tokens, CountTokensRequest, TokenCount),
    Route("/tokenize", tokenize, TokenizeRequest),
    Route("/detokenize", detokenize, DetokenizeRequest),
    *(Route(path, not_offered.handler, statuses=(501,)) for path in not_offered.WHY),
)
