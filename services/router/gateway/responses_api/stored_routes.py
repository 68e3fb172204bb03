"""GET and DELETE /v1/responses/ID, GET /v1/responses/ID/input_items, and POST /v1/responses/ID/cancel."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NoReturn

from fastapi import Request
from starlette.responses import Response

from services.router.gateway.context import GatewayContext
from services.router.gateway.json_bytes import json_bytes
from services.router.gateway.responses_api.records import Record
from services.router.gateway.responses_api.store import ResponseStore
from services.router.requests.errors import InvalidRequest

SHOWN = 80  # characters of an id or a parameter's name in an error
DEFAULT_LIMIT, MAX_LIMIT = 20, 100
# What a retrieval may say beside the id: nothing that would change the answer.
RETRIEVE = {"stream": ("false",), "include": (), "include_obfuscation": ("false",), "starting_after": ()}


class ResponseNotFound(InvalidRequest):
    """Expected: no stored response has this id, or no longer."""

    status = 404
    code = "response_not_found"


async def retrieve(gateway: GatewayContext, request: Request) -> Response:
    """Returns a stored response. Raises RouterError."""
    check_query(request, (), RETRIEVE)
    _, record = await _found(gateway, request)
    return _json(record.response)


async def delete(gateway: GatewayContext, request: Request) -> dict[str, Any]:
    """Deletes a stored response; what continues it cannot be continued any more. Raises RouterError."""
    check_query(request, (), {})
    response_id, store = _response_id(request), gateway.responses
    if store is None or not await store.delete(response_id, "response_id"):
        raise _not_found(response_id)
    return {"id": response_id, "object": "response", "deleted": True}


async def cancel(gateway: GatewayContext, request: Request) -> NoReturn:
    """Raises the error that OpenAI has for a response that was not made in the background; none is, here."""
    check_query(request, (), {})
    await _found(gateway, request)
    raise InvalidRequest(
        "Cannot cancel a synchronous response: only responses with background: true can be cancelled, which this server"
        " does not make. Close the connection to cancel a request.",
        param="response_id",
    )


async def input_items(gateway: GatewayContext, request: Request) -> Response:
    """Returns all items before a response's own, by default the newest first. Raises RouterError."""
    check_query(request, ("after", "limit", "order"), {"include": ()})
    limit, order, after = _limit(request), _order(request), request.query_params.get("after")
    store, last = await _found(gateway, request)
    records = await store.chain(_response_id(request), "response_id") if last.before else [last]
    if records is None:
        raise ResponseNotFound("A response that this one continues is not stored any more.", param="response_id")
    items: list[dict[str, Any]] = []
    for record in records:
        items += record.items if record is records[-1] else [*record.items, *record.response["output"]]
    if order == "desc":
        items.reverse()
    if after is not None:
        places = [number for number, item in enumerate(items) if item.get("id") == after]
        if not places:
            raise InvalidRequest("after: the response has no such input item.", param="after")
        items = items[places[0] + 1 :]
    page = items[:limit]
    ids = [str(item.get("id", "")) for item in page] or [""]
    more = len(items) > limit
    return _json({"object": "list", "data": page, "first_id": ids[0], "last_id": ids[-1], "has_more": more})


def _json(value: Any) -> Response:
    return Response(json_bytes(value), media_type="application/json")


def check_query(request: Request, honoured: Collection[str], only_as: Mapping[str, tuple[str, ...]]) -> None:
    """Raises InvalidRequest for the first parameter of the query that is neither honoured nor harmless as it is."""
    for key, value in request.query_params.multi_items():
        name = key.removesuffix("[]")[:SHOWN]
        if name in honoured or value in only_as.get(name, ()):
            continue
        if name in only_as:
            raise InvalidRequest(f"{name} is not supported here.", param=name, code="unsupported_parameter")
        raise InvalidRequest(f"Unknown parameter: '{name}'.", param=name, code="unknown_parameter")


def _limit(request: Request) -> int:
    text = request.query_params.get("limit", str(DEFAULT_LIMIT))
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= MAX_LIMIT):
        raise InvalidRequest(f"limit must be between 1 and {MAX_LIMIT}.", param="limit", code="value_out_of_range")
    return int(text)


def _order(request: Request) -> str:
    order = request.query_params.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidRequest("order must be asc or desc.", param="order")
    return order


async def _found(gateway: GatewayContext, request: Request) -> tuple[ResponseStore, Record]:
    response_id, store = _response_id(request), gateway.responses
    record = None if store is None else await store.read(response_id, "response_id")
    if store is None or record is None:
        raise _not_found(response_id)
    return store, record


def _response_id(request: Request) -> str:
    return str(request.path_params["response_id"])


def _not_found(response_id: str) -> ResponseNotFound:
    return ResponseNotFound(f"Response with id '{response_id[:SHOWN]}' not found.", param="response_id")
