"""Which API server a context of the kubeconfig names."""

from __future__ import annotations

import os
from typing import Any

from services.local.state import NoCluster


def connect(context: str) -> tuple[Any, str]:
    """A client of the context's API server, and the context's own namespace, which may be empty. Raises NoCluster."""
    try:
        import yaml
        from kubernetes import client
        from kubernetes.config import ConfigException, kube_config
    except ImportError:
        raise NoCluster("--context needs the official client: pip install 'caracal[k8s]'") from None
    path = os.environ.get("KUBECONFIG") or "~/.kube/config"  # the client looks at the variable once, when imported
    settings = client.Configuration()
    try:
        merged = kube_config.KubeConfigMerger(path).config
        if merged is None:
            raise NoCluster(f"--context {context}: there is no kubeconfig at {path}")
        names = [one["name"] for one in merged["contexts"]]
        if context not in names:
            raise NoCluster(f"the kubeconfig {path} has no context {context!r}; it has: {', '.join(names) or 'none'}")
        loader = kube_config.KubeConfigLoader(merged, active_context=context)
        loader.load_and_set(settings)
    # The client checks no types: a file of another shape ends in whatever its first wrong step raises.
    except (ConfigException, yaml.YAMLError, OSError, ValueError, TypeError, AttributeError, LookupError) as error:
        raise NoCluster(f"--context {context}: {path}: {one_line(error)}") from None
    settings.retries = 0
    return client.ApiClient(settings), loader.current_context["context"].get("namespace") or ""


def one_line(words: object) -> str:
    return " ".join(str(words).split())
