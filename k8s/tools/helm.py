"""Finds a helm binary and renders the chart with it, without any cluster."""

import shutil
import subprocess
import sys
from pathlib import Path

from k8s.tools.values import CHART


class HelmMissing(RuntimeError):
    """There is no helm binary; the message says how to get one."""


class HelmRejected(ValueError):
    """helm rejected the chart or its values; the message is helm's."""


def find_helm() -> Path:
    """The helm of this virtual environment (`make .venv/.helm`), else the one on PATH. Raises HelmMissing."""
    installed = Path(sys.prefix) / "bin/helm"
    if installed.exists():
        return installed
    on_path = shutil.which("helm")
    if on_path is None:
        raise HelmMissing("no helm: install Helm 4, or run `make .venv/.helm`")
    return Path(on_path)


def find_helm3() -> Path:
    """The helm3 of this virtual environment, else the one on PATH. Raises HelmMissing."""
    installed = Path(sys.prefix) / "bin/helm3"
    found = installed if installed.exists() else shutil.which("helm3")
    if found is None:
        raise HelmMissing("no helm3: install Helm 3 under that name, or run `make .venv/.helm`")
    return Path(found)


def template(*arguments: str, helm: Path | None = None) -> str:
    """`helm template caracal k8s` in namespace caracal with more arguments. Raises HelmMissing, HelmRejected."""
    command = [str(helm or find_helm()), "template", "caracal", str(CHART), "--namespace", "caracal", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise HelmRejected(done.stderr.strip())
    return done.stdout
