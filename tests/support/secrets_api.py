"""Two routes of the Kubernetes API, for Secrets: a read, and a patch that fails when somebody else was first."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from support.json_server import JsonHandler, JsonServer

NAMESPACE = "models"


class SecretsApi(JsonServer):
    """A context manager. Has the Secrets of the names given, all empty; there are no others."""

    def __init__(self, *names: str) -> None:
        super().__init__(_Handler)
        self.secrets: dict[str, dict[str, str]] = {name: {} for name in names}
        self.versions = dict.fromkeys(names, 1)
        self.patched: list[str] = []
        self.before_patch: Callable[[], None] = lambda: None

    def data(self, name: str) -> dict[str, bytes]:
        return {key: base64.b64decode(value) for key, value in self.secrets[name].items()}

    def fill(self, name: str, data: dict[str, bytes]) -> None:
        """Replaces what a Secret holds."""
        self.secrets[name] = {key: base64.b64encode(value).decode() for key, value in data.items()}
        self.versions[name] += 1


class _Handler(JsonHandler):
    server: SecretsApi

    def do_GET(self) -> None:
        name = self._name()
        if name:
            self.answer(200, self._secret(name))

    def do_PATCH(self) -> None:
        patch = self.body()
        api = self.server
        api.before_patch()
        name = self._name()
        if not name:
            return
        if patch["metadata"]["resourceVersion"] != str(api.versions[name]):
            self.answer(409, {"kind": "Status", "reason": "Conflict"})
            return
        merged = {**api.secrets[name], **patch["data"]}
        api.secrets[name] = {key: value for key, value in merged.items() if value is not None}
        api.versions[name] += 1
        api.patched.append(name)
        self.answer(200, self._secret(name))

    def _name(self) -> str:
        """The Secret asked for; empty after a 404."""
        prefix, _, name = self.path.partition("?")[0].rpartition("/")
        if prefix == f"/api/v1/namespaces/{NAMESPACE}/secrets" and name in self.server.secrets:
            return name
        self.answer(404, {"kind": "Status", "reason": "NotFound"})
        return ""

    def _secret(self, name: str) -> dict[str, Any]:
        metadata = {"name": name, "namespace": NAMESPACE, "resourceVersion": str(self.server.versions[name])}
        return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": self.server.secrets[name] or None}
