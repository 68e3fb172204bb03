"""The instruction sets, one process each; meta kernels; the GIL."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import caracal_kernels
import pytest
import torch
from caracal_kernels import combine, cpu_backend, linear, probe, route, swiglu
from support.op_inputs import i32, rand
from torch._subclasses.fake_tensor import FakeTensorMode

PROBE = """
import torch, caracal_kernels as k
print(k.cpu_backend(), k.probe(torch.bfloat16), k.probe(torch.float32))
"""


def in_process(kernels: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"CARACAL_KERNELS": kernels, "PYTHONPATH": os.pathsep.join(["kernels"])}
    return subprocess.run([sys.executable, "-c", PROBE], env=env, capture_output=True, text=True, check=False)


@pytest.mark.processes
@pytest.mark.compiled
def test_every_instruction_set_runs_and_names_itself() -> None:
    kinds = ["reference", "avx2"] + (["avx512bf16"] if cpu_backend() == "avx512bf16" else [])
    probes = {}
    for kind in kinds:
        done = in_process(kind)
        assert done.returncode == 0, done.stderr
        name, *digests = done.stdout.split()
        assert name == kind
        probes[kind] = digests
    assert probes["avx2"] != probes["reference"], "two classes of numerics must not share a fingerprint"
    assert in_process("avx2").stdout.split()[1:] == probes["avx2"], "a fingerprint repeats"


@pytest.mark.processes
@pytest.mark.parametrize("content", [b"", b"no extension at all"])
def test_an_extension_that_does_not_fit_is_reported_and_not_loaded(tmp_path: Path, content: bytes) -> None:
    package = Path(caracal_kernels.__file__).parent
    shutil.copytree(package, tmp_path / "caracal_kernels", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    (tmp_path / "caracal_kernels" / f"_cpu{EXTENSION_SUFFIXES[0]}").write_bytes(content)
    env = {name: value for name, value in os.environ.items() if name != "CARACAL_KERNELS"} | {
        "PYTHONPATH": str(tmp_path)
    }
    done = subprocess.run([sys.executable, "-c", PROBE], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("reference ")
    assert done.stderr.count("compiled from other sources or for another torch") == 1
    forced = subprocess.run(
        [sys.executable, "-c", PROBE],
        env=env | {"CARACAL_KERNELS": "avx2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "CARACAL_KERNELS is 'avx2'" in forced.stderr.splitlines()[-1]


@pytest.mark.processes
def test_an_unknown_kind_is_named() -> None:
    done = in_process("sse9")
    assert done.returncode != 0
    assert "CARACAL_KERNELS" in done.stderr
    assert "sse9" in done.stderr


@pytest.mark.processes
@pytest.mark.compiled
@pytest.mark.parametrize("kind", ["avx2", "reference"])
def test_the_op_tests_pass_on_the_other_kinds(kind: str) -> None:
    files = ["tests/ops/test_dense_ops.py", "tests/ops/test_mla_ops.py", "tests/ops/test_routing_ops.py"]
    compiled = ["tests/ops/test_op_edges.py", "tests/ops/test_sample_op.py", "tests/ops/test_pack_fp8.py"]
    files += compiled if kind == "avx2" else []
    env = os.environ | {"CARACAL_KERNELS": kind}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.processes
def test_some_op_tests_pass_on_triton() -> None:
    """Through the ops' own names; interpreted without a GPU, so the slow ones, about batches, are in tests/ops/gpu."""
    chosen = "is_the_product or rms_norm or test_swiglu or combine_adds"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            "tests/ops/test_dense_ops.py",
            "-k",
            chosen,
        ],
        env=os.environ | {"CARACAL_KERNELS": "triton"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.compiled
def test_meta_kernels_know_the_shapes() -> None:
    with FakeTensorMode():
        x = torch.empty(5, 72)
        assert linear(x, torch.empty(9, 72), None, torch.float32).shape == (5, 9)
        assert swiglu(x, torch.empty(20, 72), torch.empty(72, 10), x).shape == (5, 72)
        ids, weights, zero = route(x, torch.empty(9, 72), torch.empty(9), 3, 6, 1.0)
        assert (ids.shape, ids.dtype, weights.shape, zero.shape) == ((5, 3), torch.int32, (5, 3), (5,))
        y = torch.empty(4, 72)
        assert combine(y, ids, weights, zero, x, x).shape == (5, 72)


@pytest.mark.compiled
def test_torchs_own_check_of_the_registration() -> None:
    x, w = rand(3, 16), rand(4, 16)
    torch.library.opcheck(torch.ops.caracal.linear, (x, w, None, torch.float32))
    torch.library.opcheck(torch.ops.caracal.rms_norm, (x, rand(16), 1e-5))
    torch.library.opcheck(torch.ops.caracal.combine, (x, i32([[0], [2], [-1]]), rand(3, 1), rand(3), x, x))


@pytest.mark.compiled
def test_ops_let_other_threads_run() -> None:
    """Sending and receiving overlap with computing only if an op gives up the interpreter's lock."""
    x, w = rand(256, 2048), rand(4096, 2048)
    linear(x, w)
    ticks, done = 0, threading.Event()

    def compute() -> None:
        for _ in range(5):
            linear(x, w)
        done.set()

    thread = threading.Thread(target=compute)
    thread.start()
    while not done.is_set():
        ticks += 1
        time.sleep(0.0005)
    thread.join()
    assert ticks > 20, "five products of 30 ms or more, looked at every half millisecond"


def test_the_probe_depends_on_the_dtype() -> None:
    assert probe(torch.float32) != probe(torch.bfloat16)
