"""Routes that tell about the router itself: health, readiness, models, load, version, metrics."""

from __future__ import annotations

import asyncio
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import JSONResponse, Response

from services.membership.overview import Overview
from services.membership.redis import RedisUnavailable
from services.router.gateway.context import GatewayContext
from services.router.requests.errors import ModelNotFound, NoWorker, RouterError

OVERVIEW_S = 4.0  # for one answer
FRESH_S = 0.5  # so often Redis is asked at most, by however many


def package_version() -> str:
    try:
        return version("caracal")
    except PackageNotFoundError:
        return "0+source"


class StatusRoutes:
    """Handlers bound to one service."""

    def __init__(self, service: GatewayContext) -> None:
        self._service = service
        self._started = int(time.time())
        self._looking = asyncio.Lock()
        self._seen: tuple[float, Overview] | None = None  # when, by the monotonic clock

    async def health(self) -> dict[str, str]:
        """The process is alive; says nothing about the cluster."""
        return {"status": "ok"}

    async def ready(self) -> Response:
        """503 with the reason while no request could be served.

        What the placement has no room for is a warning; while requests wait for experts that nobody holds, the router
        is degraded and yet ready: they may come, and the requests with them.
        """
        reason, shortage = self._not_ready(), self._service.shortage()
        more = {"warning": str(shortage)} if shortage else {}
        if reason is None:
            return JSONResponse({"status": "degraded" if shortage and shortage.lost else "ready"} | more)
        body = NoWorker(reason, code="not_ready").body() | {"status": "not ready", "reason": reason} | more
        return JSONResponse(body, 503, {"retry-after": "1"})

    async def ping(self) -> Response:
        return Response(b"", 200)

    async def version(self) -> dict[str, str]:
        return {"version": package_version()}

    async def load(self) -> dict[str, Any]:
        """Sequences open here, and by attention worker."""
        cluster = self._service.cluster
        return {"server_load": len(cluster.open_replies), "open_on": dict(cluster.attention_workers.open_on)}

    async def cluster(self) -> Response:
        """What `caracal status --gateway` shows: workers, epoch, leader. 503 while Redis is away."""
        try:
            async with asyncio.timeout(OVERVIEW_S):
                overview = await self._look()
        except (RedisUnavailable, TimeoutError) as error:
            why = str(error) or f"not within {OVERVIEW_S:g} s"
            return JSONResponse(NoWorker(f"Redis does not answer: {why}", code="redis_unavailable").body(), 503)
        return JSONResponse(overview.to_dict())

    async def _look(self) -> Overview:
        async with self._looking:
            if self._seen is None or time.monotonic() - self._seen[0] > FRESH_S:
                overview = await self._service.overview()
                self._seen = time.monotonic(), overview
            return self._seen[1]

    async def models(self) -> dict[str, Any]:
        return {"object": "list", "data": [self._card()]}

    async def model(self, model_id: str) -> dict[str, Any]:
        if model_id != self._service.cluster.assets.name:
            raise ModelNotFound("The model does not exist here; see GET /v1/models.", param="model")
        return self._card()

    async def metrics(self) -> Response:
        cluster = self._service.cluster
        metrics = cluster.metrics
        metrics.workers.set(sum(worker.serving for worker in cluster.attention_workers.workers))
        metrics.kv_usage.set(max((worker.kv_usage for worker in cluster.attention_workers.workers), default=0.0))
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    def _not_ready(self) -> str | None:
        closing: RouterError | None = self._service.cluster.closing
        return closing.message if closing else self._service.cluster.attention_workers.not_ready()

    def _card(self) -> dict[str, Any]:
        cluster = self._service.cluster
        return {
            "id": cluster.assets.name,
            "object": "model",
            "created": self._started,
            "owned_by": "caracal",
            "root": cluster.assets.name,
            "parent": None,
            "max_model_len": cluster.max_model_len,
        }
