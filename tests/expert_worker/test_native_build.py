"""Without the compiled data plane Caracal runs, and says by name what it cannot do; where polling pays."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from caracal_kernels import is_compiled
from support.expert_workers import REPO
from support.tiny_checkpoint import make_checkpoint

from services.attention_worker.model import native_stack
from services.transport.native_build_id import build_id
from services.transport.native_extension import NAME, SOURCES, native, unavailable, why_unavailable
from services.transport.spinning import spin_s, usable_cores


@pytest.mark.processes
def test_an_attention_worker_without_the_extension_refuses_the_link_by_name(tmp_path: Path) -> None:
    """The tree is copied without compiled files, as it is where there was no compiler."""
    shutil.copytree(REPO / "services", tmp_path / "services", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    path = os.pathsep.join(map(str, (tmp_path, REPO / "kernels", REPO / "proto")))
    model = make_checkpoint(tmp_path / "model")
    done = subprocess.run(
        [sys.executable, "-m", "services.attention_worker"],
        env=os.environ | {"PYTHONPATH": path, "CARACAL_MODEL": str(model), "CARACAL_LINK": "native"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "CARACAL_LINK is 'native': the native data plane is not there: it was not compiled" in (
        done.stdout + done.stderr
    )


def test_the_extension_fits_its_sources() -> None:
    assert unavailable() == ""
    assert build_id(torch.__version__, SOURCES) == native().BUILD_ID
    assert NAME in sys.modules


@pytest.mark.skipif(not is_compiled(), reason="there are no compiled kernels")
def test_the_extension_of_native_layers_fits_its_sources() -> None:
    from services.attention_worker import _native

    assert native_stack.unavailable() == ""
    assert build_id(torch.__version__, *native_stack.SOURCES) == _native.BUILD_ID != native().BUILD_ID


def test_an_extension_from_other_sources_is_not_loaded(tmp_path: Path) -> None:
    other = tmp_path / "other.h"
    other.write_text("// another interface\n")
    assert why_unavailable(native_stack.NAME, "it", *native_stack.SOURCES, other).endswith(
        "was compiled from other sources; install Caracal again"
    )
    assert why_unavailable("services.transport.none", "it", SOURCES) == (
        "it is not there: it was not compiled when Caracal was installed"
    )


def test_frames_of_python_and_cpp_have_one_layout() -> None:
    from support.native_frames import HEADER_BYTES, HELLO, Frame

    module = native()
    assert module.HEADER_BYTES == HEADER_BYTES
    assert module.hello(7, b"abc", b"") == Frame(kind=HELLO, session=7, body=b"abc").sealed().encoded()


def test_polling_needs_a_core() -> None:
    assert spin_s(100, 2.0) == spin_s(100, 1.0) == 1e-4
    assert spin_s(100, 0.5) == 0
    assert spin_s(0, 8.0) == 0
    assert 0 < usable_cores() <= len(os.sched_getaffinity(0))
