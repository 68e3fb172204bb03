"""Secrets of this pod's namespace, read and changed through Kubernetes' API."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
TIMEOUT_S = (5.0, 10.0)  # for the connection, for the answer


class SecretUnavailable(RuntimeError):
    """A Secret that cannot be read or written; the message names it and says why."""


class SecretChanged(RuntimeError):
    """Somebody has changed a Secret since it was read."""


@dataclass(frozen=True, slots=True)
class Held:
    """What a Secret holds, and the version of it that does."""

    data: dict[str, bytes]
    version: str


class Secrets:
    """The Secrets of one namespace."""

    def __init__(self, api: Any, namespace: str) -> None:
        """`api`: a CoreV1Api of the official client."""
        self._api, self._namespace = api, namespace

    @classmethod
    def in_cluster(cls) -> Secrets:
        """Those of this pod's namespace. Raises SecretUnavailable."""
        from kubernetes import client, config

        settings = client.Configuration()
        try:
            config.load_incluster_config(client_configuration=settings)
            return cls(client.CoreV1Api(client.ApiClient(settings)), NAMESPACE.read_text(encoding="utf-8").strip())
        except (OSError, ValueError, config.ConfigException) as error:
            raise SecretUnavailable(f"the service account cannot be used: {error}") from None

    def read(self, name: str) -> Held:
        """Raises SecretUnavailable."""
        secret = self._call(name, self._api.read_namespaced_secret, name, self._namespace)
        try:
            data = {key: base64.b64decode(value, validate=True) for key, value in (secret.data or {}).items()}
        except binascii.Error as error:
            raise SecretUnavailable(f"Secret {name}: {error}") from None
        return Held(data, secret.metadata.resource_version)

    def write(self, name: str, before: Held, data: Mapping[str, bytes]) -> None:
        """Makes a Secret hold this, if it is still as it was read. Raises SecretChanged, SecretUnavailable."""
        texts: dict[str, str | None] = {key: base64.b64encode(value).decode() for key, value in data.items()}
        gone = dict.fromkeys(before.data.keys() - data.keys())
        body = {"metadata": {"resourceVersion": before.version}, "data": texts | gone}
        self._call(name, self._api.patch_namespaced_secret, name, self._namespace, body)

    def _call(self, name: str, call: Any, *arguments: Any) -> Any:
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        try:
            return call(*arguments, _request_timeout=TIMEOUT_S)
        except ApiException as error:
            if error.status == 409:
                raise SecretChanged(name) from None
            raise SecretUnavailable(f"Secret {name}: {error.status} {error.reason}") from None
        except (HTTPError, OSError) as error:
            raise SecretUnavailable(f"Secret {name}: {type(error).__name__}: {error}") from None
