"""Routes of other servers that this one has on purpose not: they say so, instead of seeming misspelt."""

from __future__ import annotations

from typing import NoReturn

from fastapi import Request

from services.router.gateway.context import GatewayContext
from services.router.requests.errors import RouterError

WHY = {
    "/v1/embeddings": "Embeddings are not offered: this model generates text.",
    "/v1/rerank": "Reranking is not offered: this model generates text.",
    "/v1/score": "Scores are not offered: this model generates text.",
}


class NotOffered(RouterError):
    """Expected: no model here does this."""

    status = 501
    type = "not_implemented_error"
    code = "not_implemented"
    should_retry = False


async def handler(_: GatewayContext, request: Request) -> NoReturn:
    raise NotOffered(WHY[request.scope["path"]])
