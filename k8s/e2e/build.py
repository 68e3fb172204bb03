"""The image and the cluster's size that every kind of target needs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from k8s.image.__main__ import build
from k8s.image.packages import REPOSITORY
from k8s.tools.values import default_image

NODES = 3
# As a user names it: nothing but the chart and the archive decides whether a kubelet finds it.
IMAGE = default_image()
BUILD = REPOSITORY / "build/image"


class NoTarget(RuntimeError):
    """There is no cluster to test on; the message says what would be one."""


class CannotDo(RuntimeError):
    """This kind of cluster has no way to bring the fault about; the message says which."""


def build_image() -> Path:
    """The image that is tested, as an OCI archive."""
    archive = BUILD / "e2e.tar"
    shutil.rmtree(BUILD / "work/wheel", ignore_errors=True)
    build("all", IMAGE, archive, BUILD / "work")
    return archive


def run(*command: str, timeout_s: float = 600) -> str:
    """Raises RuntimeError with what the program said."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:4])}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
