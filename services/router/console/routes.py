"""The routes under /console: the page's files, what it reads each second, and the one that changes something."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
import structlog
from fastapi import FastAPI, Request
from pydantic import Field, StrictInt
from starlette.exceptions import HTTPException
from starlette.responses import Response

from services.membership.desired import MAX_WORKERS, SCALED, count_violation
from services.membership.redis import RedisUnavailable
from services.router.console.console import Console
from services.router.console.files import HEADERS, load_files, tagged
from services.router.console.steering import NotFollowed
from services.router.gateway.admin_port import came_to_admin_port
from services.router.gateway.chat_messages import Lenient
from services.router.gateway.request_body import read_model
from services.router.requests.assets import ModelAssets
from services.router.requests.errors import InvalidRequest, NoWorker

log = structlog.get_logger(__name__)

JSON = "application/json"
Count = Annotated[StrictInt, Field(ge=1, le=MAX_WORKERS)] | None


class ScaleRequest(Lenient):
    """POST /console/api/scale: the workers wanted, of one role or both."""

    attention: Count = None
    expert: Count = None


def add_console(app: FastAPI, console: Console, assets: ModelAssets, version: str) -> None:
    """Adds the console's routes to a gateway."""
    routes = ConsoleRoutes(console, assets, version)
    for path, handler, method in (
        ("/console", routes.redirect, "GET"),
        ("/console/api/about", routes.about, "GET"),
        ("/console/api/state", routes.state, "GET"),
        ("/console/api/placement", routes.placement, "GET"),
        ("/console/api/scale", routes.scale, "POST"),
        ("/console/{name:path}", routes.file, "GET"),
    ):
        app.add_api_route(path, handler, methods=[method], include_in_schema=False, response_model=None)


class ConsoleRoutes:
    """The routes' handlers."""

    def __init__(self, console: Console, assets: ModelAssets, version: str) -> None:
        self._console, self._assets, self._version = console, assets, version
        self._files = load_files()

    async def redirect(self, request: Request) -> Response:
        """To the page, whose relative URLs need the slash; relative itself, so that it works behind a path prefix."""
        return Response(status_code=307, headers={"location": "console/"})

    async def file(self, request: Request, name: str) -> Response:
        file = self._files.get(name)
        if file is None:
            raise HTTPException(404)
        return tagged(request, file.body, file.media_type, file.tag)

    async def about(self, request: Request) -> Response:
        """What does not change while the router runs, and whether the token that the request shows is right."""
        steering, limit = self._console.steering, self._assets.max_model_len
        possible = bool(steering.token) and came_to_admin_port(request.scope)
        body: dict[str, Any] = {
            "model": self._assets.name,
            "version": self._version,
            "max_model_len": limit,
            "scale": {
                "possible": possible,
                "allowed": possible and steering.knows(request.headers),
                "roles": SCALED,
                "maximum": MAX_WORKERS,
                "command": steering.command,
            },
        }
        return Response(orjson.dumps(body), headers=HEADERS, media_type=JSON)

    async def state(self, request: Request, source: str = "", after: int = 0) -> Response:
        """The cluster now, with the events after number `after` of the router run `source`."""
        observer = self._console.observer
        state = await observer.state()
        events = observer.events_after(source, after)
        body = b'{"events":' + orjson.dumps(events) + b"," + state.body[1:]
        return tagged(request, body, JSON, f"{state.tag}-{len(events)}")

    async def placement(self, request: Request) -> Response:
        """The placement table that the last state had."""
        placement = self._console.observer.placement
        if placement is None:
            raise HTTPException(404)
        return tagged(request, placement.body, JSON, f"epoch-{placement.epoch}")

    async def scale(self, request: Request) -> Response:
        """Asks for worker counts, as `caracal scale` does. Raises InvalidRequest, NoWorker."""
        self._console.steering.check(request.headers)
        body = await read_model(request, ScaleRequest)
        counts = {role: count for role in SCALED if (count := getattr(body, role)) is not None}
        if not counts:
            raise InvalidRequest(f"Nothing to change: give {' or '.join(SCALED)}.", code="missing_required_parameter")
        for role, count in counts.items():
            if violation := count_violation(role, count, least=1):
                raise InvalidRequest(violation, param=role, code="value_out_of_range")
        try:
            if set(SCALED) - (await self._console.membership.desired()).keys():
                raise NotFollowed("Only a cluster started by `caracal up` follows counts asked for here.")
            for role, count in counts.items():
                await self._console.membership.set_desired(role, count)
        except RedisUnavailable:
            raise NoWorker("Redis does not answer.", code="redis_unavailable") from None
        log.info("scaling asked for in the console", **counts)
        return Response(orjson.dumps({"desired": counts}), headers=HEADERS, media_type=JSON)
