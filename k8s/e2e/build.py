"""What every target needs: the image, the number of nodes, and how to run a program."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from k8s.image.__main__ import build
from k8s.image.packages import REPOSITORY
from k8s.tools.values import default_image

NODES = 3
# The chart's default, so that the tests show whether a kubelet finds the archive's image under this name.
IMAGE = default_image()
BUILD = REPOSITORY / "build/image"


class NoTarget(RuntimeError):
    """There is no cluster to test on; the message says how to get one."""


class NotSupported(RuntimeError):
    """The target cannot inject a fault or lacks a component; the message says which."""


def build_image() -> Path:
    """Builds the image under test; returns its OCI archive."""
    archive = BUILD / "e2e.tar"
    shutil.rmtree(BUILD / "work/wheel", ignore_errors=True)
    build("all", IMAGE, archive, BUILD / "work")
    return archive


def run(*command: str, timeout_s: float = 600) -> str:
    """Returns the program's output. Raises RuntimeError with its error output."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:4])}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
