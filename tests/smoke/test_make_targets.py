"""Targets of the Makefile, each in a tiny form."""

from __future__ import annotations

import json
import os
import tarfile

import pytest
from support.shell import Shell

pytestmark = pytest.mark.processes


def test_generated_files_are_up_to_date(shell: Shell) -> None:
    """`proto`, `settings`, `metrics`, `chart` and `fmt` write files of the tree; in a clean one they change nothing."""
    folders = (shell.folder / name for name in ("proto", "docs", "k8s", "services", "tests"))
    written = [path for folder in folders for path in folder.rglob("*.*") if path.suffix != ".pyc"]
    before = {path: path.read_bytes() for path in written if path.is_file()}
    for target in ("proto", "settings", "metrics", "chart", "faults-page", "fmt"):
        shell.run("make", target)
        assert not [str(path) for path, content in before.items() if path.read_bytes() != content], target
    assert shell.run("caracal", "settings", "--markdown") == (shell.folder / "docs" / "settings.md").read_text()
    assert "CARACAL_PORT" in shell.run("caracal", "settings")


def test_supply_chain(shell: Shell) -> None:
    locks = {path: path.read_bytes() for path in (shell.folder / "requirements").iterdir()}
    assert len(locks) == 2
    shell.run("make", "lock")
    assert {path: path.read_bytes() for path in locks} == locks
    assert "0 faults" in shell.run("make", "audit", "AUDIT=--offline")
    for name in ("all", "gateway"):
        listed = json.loads((shell.folder / "build" / "supply" / f"{name}.cdx.json").read_text())
        assert listed["bomFormat"] == "CycloneDX"
        assert "fastapi" in {component["name"] for component in listed["components"]}


@pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces, which root alone may")
def test_schedules_of_faults(shell: Shell) -> None:
    out = shell.folder / "faults.json"
    options = f"--faults 1 --kinds blackhole one-way --minutes 5 --out {out}"
    shell.run("make", "faults", "N=1", f"FAULTS=--seed 26 {options}")
    shell.run("make", "faults", "N=1", f"FAULTS=--more {options}")
    found = json.loads(out.read_text())
    assert (found["seed"], found["schedules"], found["lost"], found["changed"], found["stuck"]) == (26, 2, 0, 0, 0)
    assert found["faults"] == {"blackhole": 1, "one-way": 1}
    assert not any(found[name] for name in ("without_effect", "left_behind", "controls"))


def test_one_test(shell: Shell) -> None:
    assert "passed" in shell.run("make", "test", "TESTS=tests/attention_worker/test_scheduler.py")


def test_image(shell: Shell) -> None:
    shell.run("make", "image")
    with tarfile.open(shell.folder / "build" / "image" / "caracal.tar") as archive:
        assert {"oci-layout", "index.json"} <= {name.removeprefix("./") for name in archive.getnames()}


def test_clean(shell: Shell) -> None:
    (shell.folder / "build").mkdir(exist_ok=True)
    shell.run("make", "clean")
    assert not (shell.folder / "build").exists()
    assert not (shell.folder / ".venv").is_symlink()
