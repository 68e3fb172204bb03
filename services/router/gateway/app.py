"""The HTTP application: routes and errors. The handlers are in other modules."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi_offline import FastAPIOffline

from services.router.console.routes import add_console
from services.router.gateway import errors
from services.router.gateway.api_routes import LIMITED, ROUTES, Route
from services.router.gateway.context import GatewayContext
from services.router.gateway.middleware import RequestMiddleware
from services.router.gateway.openapi_document import document
from services.router.gateway.request_body import MAX_BODY_BYTES
from services.router.gateway.status_routes import StatusRoutes, package_version


def build_app(gateway: GatewayContext) -> FastAPI:
    """Returns the application for one served model."""
    # The API reference at /docs, with its own assets: a cluster's pods reach no content network.
    app = FastAPIOffline(
        docs_url="/docs",
        redoc_url=None,
        static_url="/docs/assets",
        title="Caracal",
        version=package_version(),
        redirect_slashes=False,
    )
    app.router.redirect_slashes = False
    errors.install(app)
    app.add_middleware(
        RequestMiddleware,
        metrics=gateway.serving.metrics,
        access=gateway.access,
        admission=gateway.serving.admission,
        limited=LIMITED,
        largest_body=MAX_BODY_BYTES,
    )
    for route in ROUTES:
        _add(app, gateway, route)
    _add_gets(app, StatusRoutes(gateway))
    if gateway.console is not None:
        add_console(app, gateway.console, gateway.serving.assets, package_version())
    app.openapi = cache(partial(document, app, gateway.serving.assets.name))  # type: ignore[method-assign]
    return app


def _add(app: FastAPI, gateway: GatewayContext, route: Route) -> None:
    async def endpoint(request: Request) -> Any:
        return await route.handler(gateway, request)

    app.add_api_route(
        route.path,
        endpoint,
        methods=[route.method],
        name=route.handler.__name__,
        response_model=None,
    )


def _add_gets(app: FastAPI, status: StatusRoutes) -> None:
    for path, handler in (
        ("/health", status.health),
        ("/ready", status.ready),
        ("/ping", status.ping),
        ("/version", status.version),
        ("/load", status.load),
        ("/cluster", status.cluster),
        ("/v1/models", status.models),
        ("/v1/models/{model_id:path}", status.model),
        ("/metrics", status.metrics),
    ):
        app.add_api_route(path, handler, response_model=None)
