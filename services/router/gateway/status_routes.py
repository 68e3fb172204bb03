"""Routes about the router itself: health, readiness, models, load, version, metrics."""

from __future__ import annotations

import asyncio
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import orjson
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from services.membership.overview import Overview
from services.membership.redis import RedisUnavailable
from services.process.exposition import metrics_page
from services.router.gateway.context import GatewayContext
from services.router.gateway.messages_api.errors import speaks_anthropic
from services.router.gateway.messages_api.models import model_info, model_page
from services.router.requests.errors import ModelNotFound, NoWorker, RouterError
from services.router.requests.vllm_metrics import WithVllmNames

OVERVIEW_TIMEOUT_S = 4.0
OVERVIEW_CACHE_S = 0.5  # Redis is read no more often than this, however many clients ask


def package_version() -> str:
    try:
        return version("caracal")
    except PackageNotFoundError:
        return "0+source"


class StatusRoutes:
    """The routes' handlers."""

    def __init__(self, gateway: GatewayContext) -> None:
        self._gateway = gateway
        self._started = int(time.time())
        self._overview_lock = asyncio.Lock()
        self._overview: tuple[float, Overview] | None = None  # with the time at which it was read

    async def health(self) -> dict[str, str]:
        """Returns 200 while the process is alive, whatever the state of the cluster."""
        return {"status": "ok"}

    async def ready(self) -> Response:
        """Returns 503 with the reason while no request can be served, or no token has come through.

        A capacity shortage is a warning. While requests wait for experts that are loaded on no worker, the router is
        degraded and yet ready: once a worker loads them, the requests go on. It is cold and yet ready while they wait
        for a first attention worker.
        """
        reason, shortage = self._not_ready(), self._gateway.shortage()
        more = {"warning": str(shortage)} if shortage else {}
        if reason is None and self._gateway.serving.attention_workers.cold:
            return JSONResponse({"status": "cold", "reason": self._gateway.serving.attention_workers.missing()} | more)
        if reason is None:
            return JSONResponse({"status": "degraded" if shortage and shortage.lost else "ready"} | more)
        body = NoWorker(reason, code="not_ready").body() | {"status": "not ready", "reason": reason} | more
        return JSONResponse(body, 503, {"retry-after": "1"})

    async def ping(self) -> Response:
        return Response(b"", 200)

    async def version(self) -> dict[str, str]:
        return {"version": package_version()}

    async def load(self) -> dict[str, Any]:
        """Returns the number of open sequences, in all and by attention worker."""
        serving = self._gateway.serving
        return {"server_load": len(serving.open_streams), "open_on": dict(serving.attention_workers.open_on)}

    async def cluster(self) -> Response:
        """Returns what `caracal status --gateway` shows: workers, epoch, leader. 503 while Redis is unavailable."""
        try:
            async with asyncio.timeout(OVERVIEW_TIMEOUT_S):
                overview = await self._read_overview()
        except (RedisUnavailable, TimeoutError) as error:
            why = str(error) or f"not within {OVERVIEW_TIMEOUT_S:g} s"
            return JSONResponse(NoWorker(f"Redis does not answer: {why}", code="redis_unavailable").body(), 503)
        return Response(orjson.dumps(overview.to_dict()), media_type="application/json")

    async def _read_overview(self) -> Overview:
        async with self._overview_lock:
            if self._overview is None or time.monotonic() - self._overview[0] > OVERVIEW_CACHE_S:
                overview = await self._gateway.overview()
                self._overview = time.monotonic(), overview
            return self._overview[1]

    async def models(self, request: Request) -> dict[str, Any]:
        if speaks_anthropic(request.scope):
            return model_page(self._info(), request.query_params)
        return {"object": "list", "data": [self._card()]}

    async def model(self, model_id: str, request: Request) -> dict[str, Any]:
        if model_id != self._gateway.serving.assets.name:
            raise ModelNotFound("The model does not exist here; see GET /v1/models.", param="model")
        return self._info() if speaks_anthropic(request.scope) else self._card()

    async def metrics(self, request: Request) -> Response:
        """Returns the metrics page, in the format that the client accepts; OpenMetrics has exemplars."""
        metrics, pool = self._gateway.serving.metrics, self._gateway.serving.attention_workers
        workers = pool.workers
        metrics.workers.set(sum(worker.serving for worker in workers))
        metrics.hints.set(pool.prefixes.known)
        metrics.kv_usage.set(max((worker.kv_usage for worker in workers), default=0.0))
        metrics.keys_outdated.set(self._gateway.access.outdated)
        families = WithVllmNames(metrics.registry, metrics.model_name, pool.cache)
        page, content_type = await run_in_threadpool(metrics_page, families, request.headers.get("accept", ""))
        return Response(page, headers={"content-type": content_type})

    def _not_ready(self) -> str | None:
        closing: RouterError | None = self._gateway.serving.closing
        if closing:
            return closing.message
        return self._gateway.serving.attention_workers.not_ready() or self._gateway.unproven()

    def _info(self) -> dict[str, Any]:
        serving = self._gateway.serving
        return model_info(serving.assets.name, self._started, serving.context_limit.tokens)

    def _card(self) -> dict[str, Any]:
        serving = self._gateway.serving
        generation = serving.assets.generation
        return {
            "id": serving.assets.name,
            "object": "model",
            "created": self._started,
            "owned_by": "caracal",
            "root": serving.assets.name,
            "parent": None,
            "max_model_len": serving.context_limit.tokens,
            "generation_config": {
                "eos_token_id": sorted(serving.assets.eos_ids),
                **generation.defaults.given(),
                "not_applied": list(generation.not_applied),
            },
        }
