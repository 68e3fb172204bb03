"""Pods of the tests' own, beside a release: programs of this folder, run with the image's Python."""

from __future__ import annotations

from typing import Any

SAFE = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True}


def named(kind: str, name: str, labels: dict[str, str] | None = None, **content: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "labels": labels or {}}, **content}


def container(name: str, image: str, command: list[str], mounts: dict[str, str], port: int = 0) -> dict[str, Any]:
    """A container that PodSecurity `restricted` admits, ready when its port takes connections. `mounts`: {volume:
    path}; /tmp is one already."""
    made: dict[str, Any] = {"name": name, "image": image, "imagePullPolicy": "IfNotPresent", "command": command}
    made |= {"securityContext": SAFE, "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}}}
    made["volumeMounts"] = [{"name": volume, "mountPath": path} for volume, path in (mounts | {"tmp": "/tmp"}).items()]
    if port:
        made["readinessProbe"] = {"tcpSocket": {"port": port}, "periodSeconds": 1}
    return made


def pod(containers: list[dict[str, Any]], volumes: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """A pod's spec."""
    return {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 1,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": containers,
        "volumes": [*volumes, {"name": "tmp", "emptyDir": {}}],
        **more,
    }
