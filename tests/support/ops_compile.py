"""Ahead-of-time compilation of Triton kernels for Hopper, without a GPU, in a child process.

The tests' process interprets kernels, and Triton either interprets or compiles from its import on. The child reads one
job per line.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from subprocess import PIPE
from typing import Any

SM90_SHARED_BYTES = 227 * 1024  # what one block may ask for


@dataclass(frozen=True)
class Compiled:
    """Output of ptxas: bytes of shared memory per block, registers and spilled bytes per thread, the PTX."""

    shared_bytes: int
    registers: int
    spills: int
    ptx: str


@cache
def why_not() -> str:
    """Returns why nothing can be compiled here, or ''."""
    try:
        from triton.backends.nvidia import compiler
    except ImportError:
        return "triton is not installed"
    tools = Path(compiler.__file__).parent / "bin"
    missing = [name for name in ("ptxas", "cuobjdump") if not (tools / name).exists()]
    return f"triton was installed without {' and '.join(missing)}" if missing else ""


def compile_sm90(
    kernel: Any,
    signature: Mapping[str, str],
    constexprs: Mapping[str, int | float | bool | str | None],
    num_warps: int = 4,
    num_stages: int = 3,
    aligned: tuple[str, ...] = (),
) -> Compiled:
    """Compiles a `@triton.jit` function that is a module's attribute.

    `signature` names the types of what is no constexpr: {"x_ptr": "*bf16", "rows": "i32"}. Pointers, and the integers
    in `aligned`, are declared multiples of 16, as Triton finds at a launch. Raises RuntimeError with the compiler's
    message.
    """
    job = {
        "module": kernel.fn.__module__,
        "name": kernel.fn.__name__,
        "signature": dict(signature),
        "constexprs": dict(constexprs),
        "options": {"num_warps": num_warps, "num_stages": num_stages},
        "aligned": [name for name, kind in signature.items() if kind.startswith("*") or name in aligned],
    }
    child = _child()
    assert child.stdin
    assert child.stdout
    child.stdin.write(json.dumps(job) + "\n")
    child.stdin.flush()
    answer = json.loads(child.stdout.readline())
    if "error" in answer:
        raise RuntimeError(f"{job['name']} does not compile for sm_90:\n{answer['error'][-4000:]}")
    return Compiled(**answer)


@cache
def _child() -> subprocess.Popen[str]:
    """Starts the child, which ends with its standard input, so with this process."""
    env = os.environ | {"TRITON_INTERPRET": "0", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.Popen([sys.executable, __file__], env=env, stdin=PIPE, stdout=PIPE, text=True)


def _compile(job: dict[str, Any]) -> Compiled:
    import importlib

    import triton
    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia import compiler
    from triton.compiler import ASTSource

    kernel = getattr(importlib.import_module(job["module"]), job["name"])
    given = job["signature"] | dict.fromkeys(job["constexprs"], "constexpr")
    signature = {name: given[name] for name in kernel.arg_names}
    constexprs = {(kernel.arg_names.index(name),): value for name, value in job["constexprs"].items()}
    attrs = {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in job["aligned"]}
    source = ASTSource(kernel, signature, constexprs, attrs)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=job["options"])
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(made.asm["cubin"])
        cubin.flush()
        tool = Path(compiler.__file__).parent / "bin" / "cuobjdump"
        usage = subprocess.run([tool, "-res-usage", cubin.name], capture_output=True, text=True, check=True).stdout
    found = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage)}
    return Compiled(made.metadata.shared, found["REG"], found["STACK"] + found["LOCAL"], made.asm["ptx"])


def _answer(line: str) -> dict[str, Any]:
    try:
        return vars(_compile(json.loads(line)))
    except Exception as error:  # noqa: BLE001  the caller raises it
        return {"error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    answers, sys.stdout = sys.stdout, sys.stderr  # the compiler prints to stdout too
    for line in sys.stdin:
        print(json.dumps(_answer(line)), file=answers, flush=True)
