"""Connects to the API server that a context of the kubeconfig names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from services.cli.run_state import NoCluster


def connect(context: str) -> tuple[Any, str]:
    """Returns a client of the context's API server and the context's namespace, maybe empty. Raises NoCluster."""
    try:
        import yaml
        from kubernetes import client
        from kubernetes.config import ConfigException, kube_config
    except ImportError:
        raise NoCluster("--context needs the official client: pip install 'caracal[k8s]'") from None
    path = os.environ.get("KUBECONFIG") or "~/.kube/config"  # the client reads the variable only when imported
    settings = client.Configuration()
    try:
        merged = kube_config.KubeConfigMerger(os.pathsep.join(_nonempty_files(path))).config
        if merged is None:
            raise NoCluster(f"--context {context}: there is no kubeconfig at {path}, or it is empty")
        names = [one["name"] for one in merged["contexts"]]
        if context not in names:
            raise NoCluster(f"the kubeconfig {path} has no context {context!r}; it has: {', '.join(names) or 'none'}")
        loader = kube_config.KubeConfigLoader(merged, active_context=context)
        loader.load_and_set(settings)
        _check_server(settings.host)
    # The client checks no types: a malformed file ends in whatever its first wrong step raises.
    except (ConfigException, yaml.YAMLError, OSError, ValueError, TypeError, AttributeError, LookupError) as error:
        raise NoCluster(f"--context {context}: {path}: {one_line(error)}") from None
    settings.retries = 0
    return client.ApiClient(settings), loader.current_context["context"].get("namespace") or ""


def _nonempty_files(paths: str) -> list[str]:
    """Leaves out missing and empty files, as kubectl does. Raises ValueError for a file that is not a kubeconfig."""
    import yaml

    found = []
    for name in filter(None, paths.split(os.pathsep)):
        path = Path(name).expanduser()
        content = yaml.safe_load(path.read_text()) if path.exists() else None
        if content is None:
            continue
        if not isinstance(content, dict):
            raise ValueError(f"{path} is not a kubeconfig: it has no clusters, users and contexts")
        found.append(str(path))
    return found


def _check_server(server: object) -> None:
    """Raises ValueError for an invalid URL: urllib3 would print a warning and fail with a message of its own."""
    parts = urlsplit(str(server))
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"server {str(server)!r} is not a URL: write https://HOST:PORT")


def one_line(text: object) -> str:
    return " ".join(str(text).split())
