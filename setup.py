"""Builds the CPU kernels when torch and a C++ compiler are there; without them Caracal runs on its reference ops.

The kernels' bodies are compiled once per instruction set, so sources have flags of their own, which torch's helper cannot give.
"""

from __future__ import annotations

import importlib.util
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError, ExecError, PlatformError

CPU = Path("kernels/caracal_kernels/cpu")
COMMON = ["-std=c++20", "-O3", "-ffp-contract=off", "-fvisibility=hidden", "-Wall", "-Wno-maybe-uninitialized"]
WIDE = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512bf16", "-mavx2", "-mfma"]
FLAGS = {"avx512.cpp": WIDE, "avx2.cpp": ["-mavx2", "-mfma"]}
PLAIN = {"avx512.cpp", "avx2.cpp", "isa.cpp", "module.cpp"}  # these need no torch header


class BuildKernels(build_ext):
    """Compiles with per-source flags, two at a time; a failure is told in one line and is no error."""

    def build_extension(self, ext: Extension) -> None:
        if importlib.util.find_spec("torch") is None:
            return self._without("torch is not installed")
        if self.plat_name.split("-")[-1] not in ("x86_64", "amd64"):
            return self._without(f"there are none for {self.plat_name}")
        try:
            self._build(ext)
        except (CCompilerError, ExecError, PlatformError) as error:
            self._without(str(error).splitlines()[0])

    def _build(self, ext: Extension) -> None:
        from torch.utils.cpp_extension import include_paths, library_paths

        target = Path(self.get_ext_fullpath(ext.name))
        newest = max(Path(file).stat().st_mtime for file in [*ext.sources, *ext.depends])
        if not self.force and target.exists() and target.stat().st_mtime > newest:
            return
        target.parent.mkdir(parents=True, exist_ok=True)

        def compile_one(source: str) -> list[str]:
            name = Path(source).name
            include = [] if name in PLAIN and name != "module.cpp" else list(self.compiler.include_dirs)
            torch_include = [] if name in PLAIN else include_paths()
            flags = COMMON + FLAGS.get(name, [])
            return self.compiler.compile([source], self.build_temp, include_dirs=[*include, *torch_include], extra_postargs=flags)

        print(f"compiling {len(ext.sources)} kernel sources", file=sys.stderr, flush=True)
        with ThreadPoolExecutor(2) as pool:
            objects = [file for files in pool.map(compile_one, ext.sources) for file in files]
        libraries = ["torch", "torch_cpu", "c10"]
        self.compiler.link_shared_object(
            objects, str(target), libraries=libraries, library_dirs=library_paths(), target_lang="c++"
        )

    def _without(self, why: str) -> None:
        print(f"caracal: no compiled CPU kernels ({why}); running on the slower reference ops", file=sys.stderr, flush=True)

    def copy_extensions_to_source(self) -> None:
        built = [ext for ext in self.extensions if Path(self.get_ext_fullpath(ext.name)).exists()]
        built = built or [ext for ext in self.extensions if Path(self.build_lib, self.get_ext_filename(ext.name)).exists()]
        self.extensions = built
        super().copy_extensions_to_source()


kernels = Extension(
    "caracal_kernels._cpu",
    sources=sorted(str(file) for file in CPU.glob("*.cpp")),
    depends=sorted(str(file) for file in CPU.glob("*.h")),
    language="c++",
)
setup(ext_modules=[kernels], cmdclass={"build_ext": BuildKernels}, package_dir={"caracal_kernels": "kernels/caracal_kernels"})
