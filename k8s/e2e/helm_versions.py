"""Helm 4, which applies on the server, and Helm 3, which patches."""

from __future__ import annotations

import pytest

from k8s.tools.helm import HelmMissing, find_helm3


def helm_program(version: int) -> str:
    """Skips the test without Helm 3."""
    if version == 4:
        return "helm"
    try:
        return str(find_helm3())
    except HelmMissing as missing:
        pytest.skip(str(missing))
