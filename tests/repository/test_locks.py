"""The locks of the images' packages."""

from __future__ import annotations

from pathlib import Path

import pytest

from k8s.image.__main__ import EXTRAS
from k8s.supply import locks

REPO = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("target", EXTRAS)
def test_locks_meet_pyproject_and_have_hashes(target: str) -> None:
    assert list(locks.faults(target)) == []


def test_faults_of_a_lock_are_named(tmp_path: Path) -> None:
    text = locks.lock_of("gateway").read_text()
    pinned = locks.pins(text)["orjson"]
    wrong = text.replace(f"orjson=={pinned}", "orjson==0.1.0").replace("grpcio==", "other==")
    (tmp_path / "gateway.txt").write_text(wrong + "stray==1.0\n")
    faults = list(locks.faults("gateway", tmp_path))
    assert any("has orjson==0.1.0" in fault for fault in faults)
    assert any("lacks grpcio" in fault for fault in faults)
    assert any("no hash of stray==1.0" in fault for fault in faults)


def test_the_dockerfile_installs_nothing_else_from_the_index() -> None:
    installs = [line for line in (REPO / "Dockerfile").read_text().splitlines() if "pip install" in line]
    free = [line for line in installs if "--require-hashes" not in line and "--no-deps" not in line]
    assert len(free) == 2
    assert "setuptools" in free[0]
    assert "torch==" in free[1]
