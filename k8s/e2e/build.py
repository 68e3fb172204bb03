"""What every target needs: the images, the number of nodes, and how to run a program.

`python -m k8s.e2e.build` builds the images where the tests will need them, before any test's time limit runs.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from k8s.image.__main__ import CONFIG, MODELS, build
from k8s.image.packages import REPOSITORY, SOURCES, dependencies_key
from k8s.tools.values import default_image

NODES = 3
# The chart's default, so that the tests show whether a kubelet finds the archive's image under this name.
IMAGE = default_image()
# The same files with the reference kernels: another numerics class, as another version's kernels would be.
OTHER_TAG = f"{IMAGE.rpartition(':')[2]}-reference"
OTHER_IMAGE = f"{IMAGE.rpartition(':')[0]}:{OTHER_TAG}"
BUILD = REPOSITORY / "build/image"


class NoTarget(RuntimeError):
    """There is no cluster to test on; the message says how to get one."""


class NotSupported(RuntimeError):
    """The target cannot inject a fault or lacks a component; the message says which."""


def build_image() -> Path:
    """Builds the image under test, and the other one, unless the last ones were made from the same; returns the OCI
    archive of both."""
    archive, made_from = BUILD / "e2e.tar", BUILD / "e2e.key"
    key = _image_key()
    if not (archive.exists() and made_from.exists() and made_from.read_text() == key):
        made_from.unlink(missing_ok=True)
        shutil.rmtree(BUILD / "work/wheel", ignore_errors=True)
        build("all", IMAGE, archive, BUILD / "work", {OTHER_IMAGE: _with_reference_kernels()})
        made_from.write_text(key)
    return archive


def _with_reference_kernels() -> dict[str, object]:
    environment = CONFIG["Env"]
    assert isinstance(environment, list)
    return CONFIG | {"Env": [*environment, "CARACAL_KERNELS=reference"]}


def _image_key() -> str:
    """Changes with every file that goes into the image, with its packages and with its builder."""
    digest = hashlib.sha256(dependencies_key("all", torch=True).encode() + OTHER_IMAGE.encode())
    for path in _inputs():
        digest.update(f"\0{path.relative_to(REPOSITORY)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _inputs() -> Iterator[Path]:
    for top in (*(REPOSITORY / name for name in SOURCES), MODELS, REPOSITORY / "k8s/image"):
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".so":
                yield path


def run(*command: str, timeout_s: float = 600) -> str:
    """Returns the program's output. Raises RuntimeError with its error output."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:4])}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


if __name__ == "__main__":
    own = shutil.which("kind") or os.environ.get("CARACAL_K8S_LAB")
    print(build_image() if own and not os.environ.get("KUBECONFIG") else "no image is built: no cluster of its own")
