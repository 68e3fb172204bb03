"""GET /v1/models in Anthropic's form, for clients that send the header anthropic-version."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel
from starlette.datastructures import QueryParams

from services.router.requests.errors import InvalidRequest

MAX_LIMIT = 1000
STAGES = ("active", "deprecated", "retired")


class ModelInfo(BaseModel):
    """The served model. Tokens are those of prompt and answer together."""

    type: Literal["model"] = "model"
    id: str
    display_name: str
    created_at: str
    lifecycle: Literal["active"] = "active"
    max_input_tokens: int
    max_tokens: int


class ModelPage(BaseModel):
    """The served model, or nothing: there is one model."""

    data: list[ModelInfo]
    has_more: Literal[False] = False
    first_id: str | None = None
    last_id: str | None = None


def model_info(name: str, started: int, context: int) -> dict[str, Any]:
    """`started`: the router's start, in seconds since 1970. `context`: tokens."""
    created = datetime.fromtimestamp(started, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    info = ModelInfo(id=name, display_name=name, created_at=created, max_input_tokens=context, max_tokens=context)
    return info.model_dump()


def model_page(info: dict[str, Any], query: QueryParams) -> dict[str, Any]:
    """Returns the page that a query asks for. Raises InvalidRequest."""
    limit = query.get("limit", "20")
    if not (limit.isascii() and limit.isdigit() and 1 <= int(limit[:5]) <= MAX_LIMIT):
        raise InvalidRequest(f"limit must be between 1 and {MAX_LIMIT}.", param="limit", code="value_out_of_range")
    stages = [value for name in ("lifecycle", "lifecycle[]") for value in query.getlist(name)]
    if wrong := [stage for stage in stages if stage not in STAGES]:
        raise InvalidRequest(f"lifecycle must be one of {', '.join(STAGES)}, not {wrong[0][:40]!r}.", param="lifecycle")
    beyond = any(query.get(cursor) is not None for cursor in ("after_id", "before_id"))
    shown = not beyond and (not stages or "active" in stages)
    data = [ModelInfo.model_validate(info)] if shown else []
    ends = {"first_id": info["id"], "last_id": info["id"]} if shown else {}
    return ModelPage(data=data, **ends).model_dump()
