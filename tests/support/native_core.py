"""Builds the data plane's core with sanitizers, without Python, and runs its checks and its fuzzer.

`python -m support.native_core --frames 1000000` is `make sanitize`.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
CORE, PROGRAMS = REPO / "services/transport/native", REPO / "tests/native"
WARNINGS = ("-Wall", "-Wextra", "-Werror", "-Wno-restrict")  # GCC 12 warns of its own std::string
SANITIZERS = ("address,undefined", "thread")


def compiler() -> str:
    """The C++ compiler; empty when there is none."""
    return shutil.which("g++") or shutil.which("c++") or ""


def build(folder: Path, sanitizers: str) -> None:
    """Compiles `checks` and `fuzz` into a folder. Raises CalledProcessError."""
    flags = ["-std=c++20", "-O1", "-g", f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all", "-pthread", *WARNINGS]

    def compile_one(source: Path) -> Path:
        target = folder / f"{source.stem}.o"
        include = [f"-I{CORE}", f"-I{PROGRAMS}"]
        subprocess.run([compiler(), *flags, *include, "-c", str(source), "-o", str(target)], check=True)
        return target

    core = [source for source in sorted(CORE.glob("*.cpp")) if not source.name.startswith("module")]
    programs = sorted(PROGRAMS.glob("*.cpp"))
    with ThreadPoolExecutor(2) as pool:
        objects = dict(zip([*core, *programs], pool.map(compile_one, [*core, *programs]), strict=True))
    for program in programs:
        parts = [str(objects[source]) for source in (program, *core)]
        subprocess.run([compiler(), *flags, *parts, "-o", str(folder / program.stem)], check=True)


def run(folder: Path, program: str, *arguments: object) -> str:
    """What a program prints. Raises CalledProcessError when it fails, or a sanitizer has found something."""
    command = [str(folder / program), *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        print(done.stdout[-8000:], file=sys.stderr)
        done.check_returncode()
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=1_000_000, help="mutated frames of the fuzzer")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    for sanitizers in SANITIZERS:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            build(folder, sanitizers)
            print(f"[{sanitizers}] {run(folder, 'checks').strip()}", flush=True)
            # Threads meet in the checks; under the thread sanitizer a tenth of the frames takes as long.
            frames = arguments.frames if sanitizers == SANITIZERS[0] else arguments.frames // 10
            for line in run(folder, "fuzz", frames, arguments.seed).splitlines():
                print(f"[{sanitizers}] {line}", flush=True)


if __name__ == "__main__":
    main()
