"""`python -m k8s.supply.locks [--upgrade]`: writes requirements/*.txt, what each image of the Dockerfile installs.

Torch is not in them: its build is chosen when the image is built, for a CPU or one kind of GPU.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from k8s.image.__main__ import EXTRAS
from k8s.supply.tools import REPOSITORY, program

FOLDER = REPOSITORY / "requirements"
PYTHON = "3.11"
NOT_LOCKED = "torch"
_PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^ ;\\]+)", re.M)


def lock_of(target: str, folder: Path = FOLDER) -> Path:
    return folder / f"{target}.txt"


def write(target: str, *, upgrade: bool) -> None:
    """Resolves one target. Without `upgrade` a version that is locked already stays if it still fits."""
    extras = [word for extra in EXTRAS[target].split(",") for word in ("--extra", extra)]
    with tempfile.TemporaryDirectory() as folder:
        overrides = Path(folder) / "overrides.txt"
        overrides.write_text(f'{NOT_LOCKED} ; python_version < "3"\n')
        subprocess.run(
            [
                *(program("uv"), "pip", "compile", "-q", "pyproject.toml", *extras, "--universal", "--generate-hashes"),
                *("--python-version", PYTHON, "--overrides", str(overrides), "--no-header", "--no-emit-index-url"),
                *("-o", str(lock_of(target)), *(["--upgrade"] if upgrade else [])),
            ],
            cwd=REPOSITORY,
            check=True,
        )


def pins(text: str) -> dict[str, str]:
    """The versions of a lock, by the canonical name."""
    return {canonicalize_name(name): version for name, version in _PIN.findall(text)}


def faults(target: str, folder: Path = FOLDER) -> Iterator[str]:
    """Yields what is wrong with a lock, without a network: pins that pyproject.toml does not allow, lacking hashes."""
    lock = lock_of(target, folder)
    text = lock.read_text()
    locked = pins(text)
    for requirement in wanted(target):
        name = canonicalize_name(requirement.name)
        if name == NOT_LOCKED:
            continue
        if name not in locked:
            yield f"{lock.name}: lacks {requirement}"
        elif not requirement.specifier.contains(locked[name], prereleases=True):
            yield f"{lock.name}: has {name}=={locked[name]}, pyproject.toml wants {requirement.specifier}"
    for entry in re.split(r"^(?=[A-Za-z0-9])", text, flags=re.M)[1:]:
        if "--hash=sha256:" not in entry:
            yield f"{lock.name}: no hash of {entry.split()[0]}"


def wanted(target: str) -> Iterator[Requirement]:
    """The direct requirements of a target that count on Linux."""
    project: Mapping[str, object] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    own, extras = project["dependencies"], project["optional-dependencies"]
    assert isinstance(own, list)
    assert isinstance(extras, dict)
    environment = {**default_environment(), "python_version": PYTHON, "python_full_version": f"{PYTHON}.9"}
    for text in (*own, *(one for extra in EXTRAS[target].split(",") for one in extras[extra])):
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate(environment):  # type: ignore[arg-type]  # its own type
            yield requirement


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m k8s.supply.locks", description=__doc__)
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that pyproject.toml allows")
    given = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    for target in EXTRAS:
        write(target, upgrade=given.upgrade)
        print(f"{lock_of(target).relative_to(REPOSITORY)}: {len(pins(lock_of(target).read_text()))} packages")


if __name__ == "__main__":
    main()
