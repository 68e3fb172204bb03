"""A small HTTP server with the routes of the Kubernetes API that the Job of the first pods uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from support.json_server import JsonHandler, JsonServer

APPS, CORE = "/apis/apps/v1/namespaces/models", "/api/v1/namespaces/models"


class ScaleApi(JsonServer):
    """A context manager. Has these workloads, each with one pod, and the ConfigMap `notes`."""

    def __init__(self, *workloads: str) -> None:
        super().__init__(_Handler)
        self.replicas = dict.fromkeys(workloads, 1)
        self.managers: dict[str, list[str]] = {name: ["someone"] for name in workloads}
        self.versions = dict.fromkeys(workloads, 1)
        self.notes: dict[str, str] = {}
        self.before_patch: Callable[[], None] = lambda: None

    def scale(self, name: str, count: int) -> None:
        """As another client would."""
        self.replicas[name] = count
        self.versions[name] += 1


class _Handler(JsonHandler):
    server: ScaleApi

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == f"{CORE}/configmaps/notes":
            self.answer(200, {"metadata": {}, "data": self.server.notes})
        elif name := self._workload():
            self.answer(200, self._scale(name))
        else:
            self.answer(404, {"kind": "Status", "message": path})

    def do_PATCH(self) -> None:
        api = self.server
        patch = self.body()
        api.before_patch()
        name = self._workload()
        if not name:
            api.notes |= patch["data"]
            self.answer(200, {"metadata": {}, "data": api.notes})
        elif isinstance(patch, list):
            test, *removals = patch
            if test["value"] != str(api.versions[name]):
                return self.answer(422, {"kind": "Status"})
            for each in removals:
                del api.managers[name][int(each["path"].rpartition("/")[2])]
            self.answer(200, self._scale(name))
        elif patch["metadata"]["resourceVersion"] != str(api.versions[name]):
            self.answer(409, {"kind": "Status"})
        else:
            api.scale(name, patch["spec"]["replicas"])
            api.managers[name].append(self.path.partition("fieldManager=")[2])
            self.answer(200, self._scale(name))
        return None

    def _workload(self) -> str:
        name = self.path.partition("?")[0].removeprefix(f"{APPS}/").removesuffix("/scale")
        return name if name in self.server.replicas else ""

    def _scale(self, name: str) -> dict[str, Any]:
        managers = [{"manager": each} for each in self.server.managers[name]]
        metadata = {"name": name, "resourceVersion": str(self.server.versions[name]), "managedFields": managers}
        return {"kind": "Scale", "metadata": metadata, "spec": {"replicas": self.server.replicas[name]}}
