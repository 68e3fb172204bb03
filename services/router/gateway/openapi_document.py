"""The OpenAPI document: what every route takes and answers with, made from the tables of routes and their models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from services.router.gateway.answer_schemas import Answer, ChatCompletionChunk, CompletionChunk, ErrorBody
from services.router.gateway.api_routes import RESPONSE, ROUTES, Route, parameter
from services.router.gateway.closed_model import Closed, close
from services.router.gateway.content_encoding import TAKEN
from services.router.gateway.errors import REASONS
from services.router.gateway.known_fields import CHAT
from services.router.gateway.messages_api.models import ModelInfo, ModelPage
from services.router.gateway.request_body import MAX_BODY_BYTES
from services.router.gateway.request_examples import examples
from services.router.gateway.status_schemas import Cluster, Health, Load, ModelCard, ModelList, NotReady, Ready, Version

REF = "#/components/schemas/{model}"
JSON = "application/json"
EVENTS = "text/event-stream"
ABOUT = (
    "OpenAI's, Anthropic's and vLLM's APIs. Where the router has API keys, every route but /health, /ready and /ping"
    " needs one; elsewhere those that clients send are ignored."
    " Every path that takes GET takes HEAD, and every path OPTIONS."
)
FIT = "The request is not valid, or it is and yet cannot be served: an id beyond the vocabulary, a prompt too long."
WORDS = {
    200: "The answer.",
    400: FIT,
    401: "The router has API keys, and the request none of them.",
    403: "The API key may not use this route.",
    404: "The served model has another name, or what the request is about does not exist.",
    409: "Last-Event-ID belongs to another request, or to an answer that cannot be made again.",
    413: "The body is too large.",
    414: "The path and query are too long.",
    415: "The body is not JSON, or has a Content-Encoding that is not taken.",
    429: "The caller has more open requests than its share, or its API key's quota is used up.",
    500: "A defect of the server.",
    503: "The cluster cannot serve it now; another attempt may succeed.",
    504: "No progress for too long.",
}
ANY = (400, 401, 403, 405, 408, 414, 431, 500, 501)  # whatever the route, before it or in the server


@dataclass(frozen=True)
class StatusRoute:
    """A GET about the router itself. `answer`: of JSON; `anthropic`: with the header anthropic-version.

    `media`: the types of another body. None of them: no body.
    """

    path: str
    answer: type[BaseModel] | None = None
    anthropic: type[BaseModel] | None = None
    unready: type[BaseModel] | None = None
    media: tuple[str, ...] = ()
    parameters: tuple[dict[str, Any], ...] = ()


STATUS = (
    StatusRoute("/health", Health),
    StatusRoute("/ready", Ready, unready=NotReady),
    StatusRoute("/ping"),
    StatusRoute("/version", Version),
    StatusRoute("/load", Load),
    StatusRoute("/cluster", Cluster, unready=ErrorBody),
    StatusRoute("/v1/models", ModelList, anthropic=ModelPage),
    StatusRoute(
        "/v1/models/{model_id}",
        ModelCard,
        anthropic=ModelInfo,
        parameters=(parameter("path", "model_id", {"type": "string"}),),
    ),
    StatusRoute("/metrics", media=("text/plain", "application/openmetrics-text")),
)


def document(app: FastAPI, model: str) -> dict[str, Any]:
    """Returns the OpenAPI document of a gateway that serves `model`."""
    found = get_openapi(title=app.title, version=app.version, description=ABOUT, routes=app.routes)
    found["security"] = []
    models = list(dict.fromkeys(_models()))
    _, schemas = models_json_schema([(one, _mode(one)) for one in models], ref_template=REF)
    found["components"] = {"schemas": schemas["$defs"]}
    for route in ROUTES:
        found["paths"][route.path][route.method.lower()].update(_operation(route, model))
        if route.body is not None:
            _complete(schemas["$defs"][route.body.__name__], route.body, model)
    _link(found["paths"])
    for status in STATUS:
        operation = found["paths"][status.path]["get"]
        operation["responses"] = _status_responses(status)
        if status.parameters:
            operation["parameters"] = [{**one, "example": model} for one in status.parameters]
    return found


def _link(paths: dict[str, Any]) -> None:
    """Says that the id of a response is the parameter of the routes of stored responses."""
    links = {
        f"{method} {path.removeprefix(RESPONSE)}".strip(): {
            "operationId": operation["operationId"],
            "parameters": {"response_id": "$response.body#/id"},
        }
        for path, operations in paths.items()
        if path.startswith(RESPONSE)
        for method, operation in operations.items()
        if "200" in operation["responses"]  # that can be done with it at all
    }
    links = {name.replace(" /", "_"): link for name, link in links.items()}
    paths["/v1/responses"]["post"]["responses"]["200"]["links"] = links


def _models() -> Iterator[type[BaseModel]]:
    for route in ROUTES:
        yield from (one for one in (route.body, route.answer, route.event, route.error) if one is not None)
    for status in STATUS:
        yield from (one for one in (status.answer, status.anthropic, status.unready) if one is not None)


def _mode(model: type[BaseModel]) -> JsonSchemaMode:
    """Answers that pydantic writes have all of their fields; others only those without a default."""
    bodies = {route.body for route in ROUTES}
    return "validation" if model in bodies or issubclass(model, Answer) else "serialization"


def _complete(schema: dict[str, Any], body: type[BaseModel], model: str) -> None:
    """Adds what only the gateway knows: fields beside the model's own, and the name of the served model."""
    if not issubclass(body, Closed):
        close(schema, CHAT)
    required = "model" in schema.get("required", ())
    schema["properties"]["model"] = {"enum": [model, ""] if required else [model, "", None], "title": "Model"}


def _operation(route: Route, model: str) -> dict[str, Any]:
    responses = {code: _error(code, route.error) for code in sorted({*ANY, *route.statuses})}
    if route.answer is not None:
        content: dict[str, Any] = {JSON: {"schema": _ref(route.answer)}}
        if route.event is not None:
            content[EVENTS] = {"itemSchema": _event(route.event)}
        responses = {200: _response(200, content), **responses}
    operation: dict[str, Any] = {"responses": {str(code): one for code, one in responses.items()}}
    if route.parameters:
        operation["parameters"] = list(route.parameters)
    if route.body is not None:
        about = f"Of any length up to {MAX_BODY_BYTES} bytes; Content-Encoding may be {', '.join(TAKEN)}."
        content = {JSON: {"schema": _ref(route.body), "examples": examples(route.path, model)}}
        operation["requestBody"] = {"description": about, "required": True, "content": content}
    return operation


def _status_responses(route: StatusRoute) -> dict[str, Any]:
    content: dict[str, Any] = {one: {"schema": {"type": "string"}} for one in route.media}
    if route.answer is not None:
        forms = [_ref(one) for one in (route.answer, route.anthropic) if one is not None]
        content = {JSON: {"schema": {"anyOf": forms} if len(forms) > 1 else forms[0]}}
    responses = {200: _response(200, content)}
    responses |= {code: _error(code, ErrorBody) for code in ANY}
    if route.parameters:
        responses[404] = _error(404, ErrorBody)
    if route.unready is not None:
        responses[503] = _error(503, route.unready)
    return {str(code): responses[code] for code in sorted(responses)}


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": REF.format(model=model.__name__)}


def _event(model: type[BaseModel]) -> dict[str, Any]:
    """The schema of one server-sent event, as OpenAPI 3.2 has it."""
    data: dict[str, Any] = {"type": "string", "contentMediaType": JSON, "contentSchema": _ref(model)}
    if model in (ChatCompletionChunk, CompletionChunk):
        data = {"anyOf": [data, {"const": "[DONE]"}]}
    return {"type": "object", "properties": {"data": data, "event": {"type": "string"}}, "required": ["data"]}


def _error(code: int, model: type[BaseModel]) -> dict[str, Any]:
    return _response(code, {JSON: {"schema": _ref(model)}})


def _response(code: int, content: dict[str, Any]) -> dict[str, Any]:
    named = {405: "allow", 415: "accept-encoding", 429: "retry-after", 503: "retry-after", 504: "x-should-retry"}
    names = [named[code]] if code in named else []
    headers = {name: {"schema": {"type": "string"}, "required": name == "allow"} for name in names}
    headers["x-request-id"] = {"schema": {"type": "string"}, "required": True}
    words = WORDS.get(code) or REASONS[code][0]
    return {"description": words, "headers": headers, **({"content": content} if content else {})}
