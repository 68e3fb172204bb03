"""The data plane's core under sanitizers: its own checks, and a hundred thousand mutated frames to each side."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import native_core

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(not native_core.compiler(), reason="there is no C++ compiler"),
]

FRAMES = 200_000


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("core")
    native_core.build(folder, native_core.SANITIZERS[0])
    return folder


def test_the_core_s_checks_hold(built: Path) -> None:
    assert native_core.run(built, "checks").strip() == "all checks hold"


def test_mutated_frames_crash_nothing_and_leave_other_sessions_alone(built: Path) -> None:
    lines = native_core.run(built, "fuzz", FRAMES, 5).splitlines()
    to = ["to the worker", "to the caller", "to the worker, encrypted", "to the caller, encrypted"]
    assert [line.split(":")[0] for line in lines] == to
    assert all(f"{FRAMES // 4} frames" in line for line in lines)
