"""Finds a helm binary and renders the chart with it. No cluster is asked for anything."""

import lzma
import os
import shutil
import subprocess
from pathlib import Path

from k8s.tools.values import CHART

_PACKED = "helm.xz"


class HelmMissing(RuntimeError):
    """There is no helm here; the message says where it was looked for."""


class HelmRefused(ValueError):
    """helm did not accept the chart or its values; the message is helm's own."""


def find_helm() -> Path:
    """`helm` on PATH, else helm.xz from CARACAL_K8S_BIN or ../shared/k8s/bin, unpacked once into the user's cache.

    Raises HelmMissing.
    """
    on_path = shutil.which("helm")
    if on_path:
        return Path(on_path)
    folder = Path(os.environ.get("CARACAL_K8S_BIN") or CHART.parents[1] / "shared/k8s/bin")
    packed = folder / _PACKED
    if not packed.exists():
        raise HelmMissing(f"no helm on PATH and no {packed}; install Helm or set CARACAL_K8S_BIN")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "caracal"
    unpacked = cache / f"helm-{packed.stat().st_size}"
    if not unpacked.exists():
        cache.mkdir(parents=True, exist_ok=True)
        part = cache / f"helm.{os.getpid()}.part"
        part.write_bytes(lzma.decompress(packed.read_bytes()))
        part.chmod(0o755)
        part.rename(unpacked)
    return unpacked


def template(*arguments: str, helm: Path | None = None) -> str:
    """`helm template caracal k8s` in namespace caracal with more arguments. Raises HelmMissing, HelmRefused."""
    command = [str(helm or find_helm()), "template", "caracal", str(CHART), "--namespace", "caracal", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise HelmRefused(done.stderr.strip())
    return done.stdout
