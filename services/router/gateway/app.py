"""The HTTP application: routes, errors, the OpenAPI document. The handlers are in other modules."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi_offline import FastAPIOffline
from pydantic.json_schema import models_json_schema

from services.router.console.routes import add_console
from services.router.gateway import errors
from services.router.gateway.api_routes import ROUTES, SCHEMA, ErrorBody, Route
from services.router.gateway.context import GatewayContext
from services.router.gateway.middleware import RequestMiddleware
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
    app.add_middleware(RequestMiddleware, metrics=gateway.serving.metrics)
    for route in ROUTES:
        _add(app, gateway, route)
    _add_gets(app, StatusRoutes(gateway))
    if gateway.console is not None:
        add_console(app, gateway.console, gateway.serving.assets, package_version())
    app.openapi = partial(_document, app)  # type: ignore[method-assign]
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
        responses=route.responses(),
        openapi_extra=route.extra(),
    )


def _add_gets(app: FastAPI, status: StatusRoutes) -> None:
    unready: dict[int | str, dict[str, Any]] = {503: {"model": ErrorBody}}
    app.add_api_route("/health", status.health)
    app.add_api_route("/ready", status.ready, response_model=None, responses=unready)
    app.add_api_route("/ping", status.ping, response_model=None)
    app.add_api_route("/version", status.version)
    app.add_api_route("/load", status.load)
    app.add_api_route("/cluster", status.cluster, response_model=None, responses=unready)
    app.add_api_route("/v1/models", status.models)
    app.add_api_route("/v1/models/{model_id:path}", status.model, responses={404: {"model": ErrorBody}})
    app.add_api_route("/metrics", status.metrics, response_model=None)


def _document(app: FastAPI) -> dict[str, Any]:
    """Returns the OpenAPI document. Bodies are parsed without FastAPI, so their schemas are added here."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes)
        body_types = [(route.body, "validation") for route in ROUTES if route.body is not None]
        _, schemas = models_json_schema(body_types, ref_template=SCHEMA + "{model}")  # type: ignore[arg-type]
        document["components"]["schemas"].update(schemas["$defs"])
        for name in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(name, None)
        for operations in document["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
        app.openapi_schema = document
    return app.openapi_schema
