"""The routes that a router answers on its admin port alone, so that who may use the API need not reach them."""

from __future__ import annotations

import re
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from services.router.requests.errors import InvalidRequest

ADMIN_ONLY = re.compile(r"/(metrics|load|cluster|console/api/scale)")
STATE = "admin_port"  # in the scope's state, of requests that came to that port


class OnAdminPort(InvalidRequest):
    """Expected: a request to the API's port for a route of the admin port."""

    status = 404
    code = "admin_port_only"


class AdminPort:
    """The application as the admin port has it: with every route."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})[STATE] = True
        await self._app(scope, receive, send)


def came_to_admin_port(scope: Any) -> bool:
    """Whether a request did."""
    return bool(scope.get("state", {}).get(STATE))


def check_port(scope: Scope) -> None:
    """Takes a scope as it is routed. Raises OnAdminPort."""
    if ADMIN_ONLY.fullmatch(scope["path"]) and not came_to_admin_port(scope):
        raise OnAdminPort("This route is on the router's admin port alone (CARACAL_ADMIN_PORT).")
