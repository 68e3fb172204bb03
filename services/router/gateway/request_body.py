"""Reads a request's body: a size limit, strict JSON, checked fields. Every rejection is an InvalidRequest."""

from __future__ import annotations

import json
from typing import Any, TypeVar

import orjson
from fastapi import Request
from pydantic import BaseModel, ValidationError

from services.router.gateway.body_errors import MAX_NAME, first_error
from services.router.gateway.closed_model import Closed
from services.router.gateway.content_encoding import Decoder, encoding_of
from services.router.gateway.json_size import field_beyond, most_values
from services.router.gateway.known_fields import check_known
from services.router.gateway.off_loop import off_loop
from services.router.gateway.resumption import HEADER, body_digest
from services.router.requests.admission import current_visit
from services.router.requests.errors import BodyTooLarge, InvalidRequest, UnsupportedMediaType

MAX_BODY_BYTES = 4 << 20
MAX_DEPTH = 64
MAX_PARTS = 4096  # of content, in all messages of a request
LONG_BODY_BYTES = 64 << 10  # longer ones are parsed off the event loop
MANY_VALUES = 1024  # so are those with more values
MAX_VALUES = 1 << 15  # of a body, since its check holds up other requests, on whatever thread
MAX_IDS_AND_VALUES = 300_000  # where lists of ids are taken: 128 prompts of 2048 tokens, and more

Body = TypeVar("Body", bound=BaseModel)


async def read_model(request: Request, body_type: type[Body]) -> Body:
    """Reads the request's body. Raises what `read_body` does; ClientDisconnect when the client left."""
    check_media_type(request)
    data = await read_body(request)
    if HEADER in request.headers:
        request.state.body_digest = body_digest(data)
    if len(data) > LONG_BODY_BYTES or most_values(data) > MANY_VALUES:
        return await off_loop(parse_model, data, body_type)
    return parse_model(data, body_type)


def check_media_type(request: Request) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise UnsupportedMediaType("Content-Type must be application/json.")


async def read_body(request: Request) -> bytes:
    """Returns the whole body, decompressed. Raises InvalidRequest, and TooManyRequests or Overloaded when others leave
    no room for it.

    BodyTooLarge comes as soon as the body is known to be too large, chunked or not, compressed or not.
    """
    visit = current_visit()
    decoder = Decoder(encoding_of(",".join(request.headers.getlist("content-encoding"))))
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared[:20]) > MAX_BODY_BYTES:
        raise _too_large()
    chunks: list[bytes] = []
    size = taken = 0
    async for chunk in request.stream():
        taken += len(chunk)
        plain = decoder.feed(chunk, MAX_BODY_BYTES - size)
        size += len(plain)
        if max(size, taken) > MAX_BODY_BYTES:
            raise _too_large()
        if visit is not None:
            visit.read(max(size, taken))
        chunks.append(plain)
    decoder.finish()
    return b"".join(chunks)


def parse_model(data: bytes, body_type: type[Body]) -> Body:
    """Parses strict JSON and checks the fields. Raises InvalidRequest."""
    check_values(data, MAX_IDS_AND_VALUES if getattr(body_type, "takes_ids", False) else MAX_VALUES)
    return check_model_fields(parse_json(data), body_type)


def check_values(data: bytes, most: int) -> None:
    """Raises InvalidRequest, with the field, for a body of more than `most` values."""
    if most_values(data) > most and (field := field_beyond(data, most)) is not None:
        param = field if len(field) <= MAX_NAME else ""
        message = f"The body has more than {most} JSON values{f', too many of them in {param}' if param else ''}."
        raise InvalidRequest(message, param=param or None, code="value_out_of_range")


def check_model_fields(value: Any, body_type: type[Body]) -> Body:
    """Checks the fields of a parsed JSON value. Raises InvalidRequest."""
    if not isinstance(value, dict):
        raise InvalidRequest("The body must be a JSON object.", code="invalid_json")
    if not issubclass(body_type, Closed):
        check_known(value, body_type.model_fields)
    _check_parts(value)
    try:
        return body_type.model_validate(value)
    except ValidationError as error:
        raise first_error(error, value) from None


def _check_parts(value: dict[str, Any]) -> None:
    """Rejects messages of very many parts before they are checked one by one, which holds up the whole process."""
    for field in ("messages", "input"):
        items = value.get(field)
        contents = [item.get("content") for item in items if isinstance(item, dict)] if isinstance(items, list) else []
        if sum(len(content) for content in contents if isinstance(content, list)) > MAX_PARTS:
            raise InvalidRequest(
                f"{field}: at most {MAX_PARTS} parts of content in all.", param=field, code="value_out_of_range"
            )


def parse_json(data: bytes) -> Any:
    """Parses one JSON value. Raises InvalidRequest.

    That includes what parsers disagree on: BOMs, NaN, lone surrogates, duplicate keys, deep nesting.
    """
    try:
        # orjson is strict about bytes, numbers and surrogates, and its own depth limit protects the second parser,
        # which alone sees duplicate keys and whole integers.
        orjson.loads(data)
        value = json.loads(data, object_pairs_hook=_unique)
    except ValueError as error:
        reason = str(error) if isinstance(error, DuplicateKey) else _json_reason(error)
        raise InvalidRequest(f"The body is not valid JSON: {reason}.", code="invalid_json") from None
    _check_depth(value)
    return value


class DuplicateKey(ValueError):
    """Expected: a JSON object has a key twice."""


def _unique(items: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(items)
    if len(value) != len(items):
        raise DuplicateKey("an object has a key twice")
    return value


def _json_reason(error: ValueError) -> str:
    return str(getattr(error, "msg", "it cannot be read")).partition(":")[0][:100] or "it cannot be read"


def _check_depth(value: Any) -> None:
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise InvalidRequest(f"The body is nested deeper than {MAX_DEPTH} levels.", code="invalid_json")
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below += [child for child in item.values() if isinstance(child, (dict, list))]
            elif isinstance(item, list):
                below += [child for child in item if isinstance(child, (dict, list))]
        level = below


def _too_large() -> BodyTooLarge:
    return BodyTooLarge(f"The body is larger than {MAX_BODY_BYTES} bytes.")
