"""The routes of the API whose bodies are parsed without FastAPI, with the schemas of what goes in and comes out."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import Request
from pydantic import BaseModel

from services.router.gateway import not_offered
from services.router.gateway.answer_schemas import (
    ChatCompletion,
    ChatCompletionChunk,
    Completion,
    CompletionChunk,
    Detokenized,
    ErrorBody,
    MessagesEvent,
    ResponsesEvent,
    Tokenized,
)
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

Handler = Callable[[GatewayContext, Request], Coroutine[Any, Any, Any]]


MODEL_STATUSES = (400, 404, 413, 415, 429, 503, 504)


@dataclass(frozen=True)
class Route:
    """One method of one path. `answer`: the model of a success. `event`: of the events that may come instead of it.

    `statuses`: of errors, beside those of every route.
    """

    path: str
    handler: Handler
    body: type[BaseModel] | None = None
    answer: type[BaseModel] | None = None
    method: str = "POST"
    error: type[BaseModel] = ErrorBody
    statuses: tuple[int, ...] = MODEL_STATUSES
    parameters: tuple[dict[str, Any], ...] = ()
    event: type[BaseModel] | None = None


def parameter(place: str, name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """One parameter in the OpenAPI document."""
    return {"name": name, "in": place, "required": place == "path", "schema": schema}


RESPONSE = "/v1/responses/{response_id}"
RESPONSE_ID = parameter("path", "response_id", {"type": "string"})
PAGE = (
    parameter("query", "after", {"type": "string"}),
    parameter("query", "limit", {"type": "integer", "minimum": 1, "maximum": stored_routes.MAX_LIMIT}),
    parameter("query", "order", {"type": "string", "enum": ["asc", "desc"]}),
)
ONLY_FALSE = tuple(parameter("query", name, {"enum": ["false"]}) for name in ("stream", "include_obfuscation"))
_stored = partial(Route, body=None, statuses=(400, 404, 503))
_resumable = partial(Route, statuses=(*MODEL_STATUSES, 409))
_message = partial(Route, error=MessagesErrorBody)
ROUTES: tuple[Route, ...] = (
    _resumable("/v1/chat/completions", chat_completions, ChatRequest, answer=ChatCompletion, event=ChatCompletionChunk),
    _resumable("/v1/completions", completions, CompletionRequest, answer=Completion, event=CompletionChunk),
    Route("/v1/responses", responses, ResponsesRequest, ResponseObject, event=ResponsesEvent),
    _stored(
        RESPONSE, stored_routes.retrieve, answer=ResponseObject, method="GET", parameters=(RESPONSE_ID, *ONLY_FALSE)
    ),
    _stored(RESPONSE, stored_routes.delete, answer=DeletedResponse, method="DELETE", parameters=(RESPONSE_ID,)),
    _stored(
        RESPONSE + "/input_items",
        stored_routes.input_items,
        answer=ItemList,
        method="GET",
        parameters=(RESPONSE_ID, *PAGE),
    ),
    _stored(RESPONSE + "/cancel", stored_routes.cancel, parameters=(RESPONSE_ID,)),
    _message("/v1/messages", messages, MessagesRequest, MessageObject, event=MessagesEvent),
    _message("/v1/messages/count_tokens", count_tokens, CountTokensRequest, TokenCount),
    Route("/tokenize", tokenize, TokenizeRequest, Tokenized),
    Route("/detokenize", detokenize, DetokenizeRequest, Detokenized),
    *(Route(path, not_offered.handler, statuses=(501,)) for path in not_offered.WHY),
)
# Paths whose POST is a request to admission.
LIMITED = frozenset(route.path for route in ROUTES if route.method == "POST" and route.body is not None)
