"""The pods of this pod's namespace, as Kubernetes' API has them: all that may mount one of its claims."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
TIMEOUT_S = (5.0, 30.0)  # for the connection, for the answer
PAGE = 500  # pods of one answer
ENDED = ("Succeeded", "Failed")


class PodsUnavailable(RuntimeError):
    """The pods cannot be listed; the message says why."""


class Pods:
    """Those of one namespace. `api`: an ApiClient of the official client."""

    def __init__(self, api: Any, namespace: str) -> None:
        from kubernetes.client import CoreV1Api

        self._core, self._namespace = CoreV1Api(api), namespace

    @classmethod
    def in_cluster(cls) -> Pods:
        """Raises PodsUnavailable."""
        try:
            from kubernetes import client, config
        except ImportError:
            raise PodsUnavailable("no package kubernetes: pip install 'caracal[k8s]'") from None
        settings = client.Configuration()
        try:
            config.load_incluster_config(client_configuration=settings)
            return cls(client.ApiClient(settings), NAMESPACE.read_text(encoding="utf-8").strip())
        except (OSError, ValueError, config.ConfigException) as error:
            raise PodsUnavailable(f"the service account cannot be used: {error}") from None

    def specs(self) -> str:
        """The specs of the pods that have not ended, as JSON, one a line. Raises PodsUnavailable."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        lines, rest = [], ""
        try:
            while True:
                # Unparsed: the client would leave out what it does not know.
                answer = self._core.list_namespaced_pod(
                    self._namespace,
                    limit=PAGE,
                    _preload_content=False,
                    _request_timeout=TIMEOUT_S,
                    **({"_continue": rest} if rest else {}),
                )
                page = json.loads(answer.data)
                lines += [json.dumps(pod["spec"]) for pod in page["items"] if pod["status"].get("phase") not in ENDED]
                if not (rest := page["metadata"].get("continue") or ""):
                    return "\n".join(lines)
        except ApiException as error:
            raise PodsUnavailable(f"pods cannot be listed: {error.status} {error.reason}") from None
        except (HTTPError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise PodsUnavailable(f"pods cannot be listed: {type(error).__name__}: {error}") from None
