"""Deployments and StatefulSets of this pod's namespace, given their first number of pods through Kubernetes' API."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from services.replicas.settings import Workload

log = structlog.get_logger(__name__)

NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
TIMEOUT_S = (5.0, 10.0)  # for the connection, for the answer
TRIES, PAUSE_S = 20, 0.1
MANAGER = "caracal-initial-replicas"
KINDS = {"deployments": "deployment_scale", "statefulsets": "stateful_set_scale"}
CHANGED = (409, 422)  # another version; a test of a JSON patch that fails


class WorkloadUnavailable(RuntimeError):
    """A workload, or the ConfigMap, that cannot be read or changed; the message names it and says why."""


class _Changed(RuntimeError):
    """Somebody has changed a workload since it was read."""


class Workloads:
    """The workloads of one namespace. `config_map` has a key for each that has had its first number."""

    def __init__(self, api: Any, namespace: str, config_map: str) -> None:
        """`api`: an ApiClient of the official client."""
        from kubernetes.client import AppsV1Api, CoreV1Api

        self._apps, self._core = AppsV1Api(api), CoreV1Api(api)
        self._namespace, self._config_map = namespace, config_map

    @classmethod
    def in_cluster(cls, config_map: str) -> Workloads:
        """Those of this pod's namespace. Raises WorkloadUnavailable."""
        from kubernetes import client, config

        settings = client.Configuration()
        try:
            config.load_incluster_config(client_configuration=settings)
            return cls(client.ApiClient(settings), NAMESPACE.read_text(encoding="utf-8").strip(), config_map)
        except (OSError, ValueError, config.ConfigException) as error:
            raise WorkloadUnavailable(f"the service account cannot be used: {error}") from None

    def begin(self, workload: Workload) -> None:
        """Sets the workload's number if it never had one, and leaves the number to nobody. Raises WorkloadUnavailable.

        One that has been scaled already, which is seen by its not having one pod, keeps its number.
        """
        map_name = f"configmaps/{self._config_map}"
        noted = self._call(map_name, self._core.read_namespaced_config_map, self._config_map).get("data") or {}
        if workload.name not in noted:
            if not self._insist(self._scale, workload):
                raise WorkloadUnavailable(f"{workload.kind}/{workload.name} is changed all the time")
            body = {"data": {workload.name: str(workload.replicas)}}
            self._call(map_name, self._core.patch_namespaced_config_map, self._config_map, body)
        if not self._insist(self._disown, workload):
            log.warning("values that own replicas later on will be a conflict", workload=workload.name)

    def _insist(self, change: Callable[[Workload], None], workload: Workload) -> bool:
        """Tries again while others change the workload, such as controllers; returns whether it went through."""
        for _ in range(TRIES):
            try:
                change(workload)
                return True
            except _Changed:
                time.sleep(PAUSE_S)
        return False

    def _scale(self, workload: Workload) -> None:
        found = self._read(workload)
        if (now := found["spec"].get("replicas", 0)) != 1:
            log.info("has been scaled already", workload=workload.name, replicas=now)
            return
        version = {"resourceVersion": found["metadata"]["resourceVersion"]}
        self._patch(workload, {"metadata": version, "spec": {"replicas": workload.replicas}})
        log.info("begins", workload=workload.name, replicas=workload.replicas)

    def _disown(self, workload: Workload) -> None:
        """Takes this process's name off the number: else values that own it later on would be a conflict for whoever
        applies them on the server, as Helm 4 does."""
        metadata = self._read(workload)["metadata"]
        managers = metadata.get("managedFields") or []
        own = [number for number, each in enumerate(managers) if each.get("manager") == MANAGER]
        if own:
            version = {"op": "test", "path": "/metadata/resourceVersion", "value": metadata["resourceVersion"]}
            gone = [{"op": "remove", "path": f"/metadata/managedFields/{number}"} for number in reversed(own)]
            self._patch(workload, [version, *gone])

    def _read(self, workload: Workload) -> dict[str, Any]:
        read = getattr(self._apps, f"read_namespaced_{KINDS[workload.kind]}")
        return self._call(f"{workload.kind}/{workload.name}", read, workload.name)

    def _patch(self, workload: Workload, body: Any) -> None:
        patch = getattr(self._apps, f"patch_namespaced_{KINDS[workload.kind]}")
        self._call(f"{workload.kind}/{workload.name}", patch, workload.name, body)

    def _call(self, what: str, call: Any, name: str, body: Any = None) -> dict[str, Any]:
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        kind = "json-patch" if isinstance(body, list) else "merge-patch"
        changes = {"body": body, "field_manager": MANAGER, "_content_type": f"application/{kind}+json"}
        try:  # unparsed: the client would leave out what it does not know
            answer = call(
                name,
                self._namespace,
                **(changes if body is not None else {}),
                _preload_content=False,
                _request_timeout=TIMEOUT_S,
            )
            found: dict[str, Any] = json.loads(answer.data)
        except ApiException as error:
            if error.status in CHANGED and body is not None:
                raise _Changed(what) from None
            raise WorkloadUnavailable(f"{what}: {error.status} {error.reason}") from None
        except (HTTPError, OSError, ValueError) as error:
            raise WorkloadUnavailable(f"{what}: {type(error).__name__}: {error}") from None
        return found
