"""Builds the CPU kernels, the native data plane and the native layers when torch and a C++ compiler are there.

Without them Caracal runs on its reference ops, its workers talk over gRPC alone, and Python runs the layers. The bodies
of kernels are compiled once per instruction set: sources have flags of their own, which torch's helper cannot give.
"""

from __future__ import annotations

import importlib.util
import platform
import runpy
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError, ExecError, PlatformError

PACKAGE = Path("kernels/caracal_kernels")
TRANSPORT = Path("services/transport")
ATTENTION = Path("services/attention_worker")
# -g0 and -fvisibility keep the file near 1 MB; no contraction, so that every instantiation rounds alike.
COMMON = ["-std=c++20", "-O3", "-g0", "-ffp-contract=off", "-fvisibility=hidden"]
COMMON += ["-Wno-uninitialized", "-Wno-maybe-uninitialized"]  # GCC 12 warns of its own intrinsics
NARROW = ["-mavx2", "-mfma"]
WIDE = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512bf16", *NARROW]
FLAGS = {"avx512.cpp": WIDE, "avx512vbmi.cpp": [*WIDE, "-mavx512vbmi"], "avx2.cpp": NARROW}
# Of the data plane only module*.cpp need torch: for the pybind11 it carries, and to call the op. GCC 12 warns of its
# own std::string.
NATIVE = ["-std=c++20", "-O3", "-g0", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-restrict", "-pthread"]
WITHOUT = {
    "caracal_kernels._cpu": ("compiled CPU kernels", "its slower reference ops will run"),
    "services.transport._native": ("native data plane", "workers talk over gRPC, CARACAL_LINK=native is rejected"),
    "services.attention_worker._native": ("native layers", "Python runs the layers, one op at a time"),
}
# What each is compiled from: native_build_id.py makes its id of these.
NATIVE_SOURCES = {
    "services.transport._native": [TRANSPORT / "native"],
    "services.attention_worker._native": [ATTENTION / "native", TRANSPORT / "native" / "scatterer.h"],
}
PLAIN = (
    "avx512.cpp",
    "avx512vbmi.cpp",
    "avx2.cpp",
    "arena.cpp",
    "crc32.cpp",
    "isa.cpp",
    "module.cpp",
)  # these need no torch header


def fits(built: Path, build_id: str) -> bool:
    """Whether an extension was compiled from these very sources, flags and torch."""
    if not built.exists() or built.stat().st_mtime < Path(__file__).stat().st_mtime:
        return False
    return build_id.encode() in built.read_bytes()


class BuildKernels(build_ext):
    """Compiles with per-source flags, two at a time; what hinders it is said in one line and is no error."""

    def build_extension(self, ext: Extension) -> None:
        missing = self._missing()
        if not missing:
            try:
                self._build_native(ext) if ext.name.endswith("_native") else self._build(ext)
            except (CCompilerError, ExecError, PlatformError):
                missing = "the compiler failed, see above"
        if missing:
            what, instead = WITHOUT[ext.name]
            print(f"caracal: no {what} ({missing}): {instead}", file=sys.stderr)

    def _missing(self) -> str:
        if importlib.util.find_spec("torch") is None:
            return "torch is not installed, or hidden by build isolation"
        if platform.machine().lower() not in ("x86_64", "amd64") or sys.platform != "linux":
            return f"there are none for {sys.platform} on {platform.machine()}"
        compiler: str = self.compiler.compiler_so_cxx[0]
        if not shutil.which(compiler):
            return f"no C++ compiler, {compiler} is not there"
        return ""

    def _build(self, ext: Extension) -> None:
        import torch
        from torch.utils.cpp_extension import include_paths, library_paths

        build_id: str = runpy.run_path(str(PACKAGE / "build_id.py"))["build_id"](torch.__version__)
        target = Path(self.get_ext_fullpath(ext.name))
        if self._is_there(target, PACKAGE, build_id):
            return

        def compile_one(source: str) -> list[str]:
            name = Path(source).name
            # OpenMP at compile time only: the runtime must be the one torch brought, or set_num_threads has no effect.
            torch_only = [] if name in PLAIN else ["-fopenmp"]
            flags = [*COMMON, *torch_only, *FLAGS.get(name, []), f'-DCARACAL_BUILD_ID="{build_id}"']
            include = [*self.compiler.include_dirs, *([] if name in PLAIN else include_paths())]
            return self.compiler.compile([source], self.build_temp, include_dirs=include, extra_postargs=flags)

        print(f"caracal: compiling {len(ext.sources)} kernel sources", file=sys.stderr, flush=True)
        with ThreadPoolExecutor(2) as pool:
            objects = [file for files in pool.map(compile_one, ext.sources) for file in files]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)  # a running process may have it mapped: never write into it
        self.compiler.link_shared_object(
            objects,
            str(target),
            libraries=["torch", "torch_cpu", "c10"],
            library_dirs=library_paths(),
            target_lang="c++",
        )

    def _build_native(self, ext: Extension) -> None:
        import torch
        from torch.utils.cpp_extension import include_paths, library_paths

        sources = NATIVE_SOURCES[ext.name]
        build_id: str = runpy.run_path(str(TRANSPORT / "native_build_id.py"))["build_id"](torch.__version__, *sources)
        target = Path(self.get_ext_fullpath(ext.name))
        if self._is_there(target, sources[0].parent, build_id):
            return
        include = self.compiler.include_dirs
        torch_headers = [flag for path in include_paths() for flag in ("-isystem", path)]  # whose warnings are not ours
        flags = [*NATIVE, *torch_headers, f'-DCARACAL_BUILD_ID="{build_id}"', "-DTORCH_EXTENSION_NAME=_native"]

        def compile_one(source: str) -> list[str]:
            return self.compiler.compile([source], self.build_temp, include_dirs=include, extra_postargs=flags)

        what = WITHOUT[ext.name][0]
        print(f"caracal: compiling {len(ext.sources)} sources of the {what}", file=sys.stderr, flush=True)
        with ThreadPoolExecutor(2) as pool:
            objects = [file for files in pool.map(compile_one, ext.sources) for file in files]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        self.compiler.link_shared_object(
            objects,
            str(target),
            libraries=["torch", "torch_cpu", "torch_python", "c10"],
            library_dirs=library_paths(),
            target_lang="c++",
        )

    def _is_there(self, target: Path, package: Path, build_id: str) -> bool:
        """Whether the extension fits already. pip builds an editable install in a fresh folder each time: what lies
        beside the sources is as good, and is copied."""
        for built in (target, package / target.name):
            if not self.force and fits(built, build_id):
                target.parent.mkdir(parents=True, exist_ok=True)
                if built != target:
                    shutil.copyfile(built, target)
                return True
        return False

    def copy_extensions_to_source(self) -> None:
        built = [ext for ext in self.extensions if Path(self.build_lib, self.get_ext_filename(ext.name)).exists()]
        self.extensions = built
        super().copy_extensions_to_source()

    def get_outputs(self) -> list[str]:
        return [path for path in super().get_outputs() if Path(path).exists()]

    def get_output_mapping(self) -> dict[str, str]:
        return {built: source for built, source in super().get_output_mapping().items() if Path(built).exists()}


setup(
    ext_modules=[
        Extension(
            "caracal_kernels._cpu",
            sources=sorted(str(file) for file in (PACKAGE / "cpu").glob("*.cpp")),
            depends=sorted(str(file) for file in (PACKAGE / "cpu").glob("*.h")),
            language="c++",
        ),
        Extension(
            "services.transport._native",
            sources=sorted(str(file) for file in (TRANSPORT / "native").glob("*.cpp")),
            depends=sorted(str(file) for file in (TRANSPORT / "native").glob("*.h")),
            language="c++",
        ),
        Extension(
            "services.attention_worker._native",
            sources=sorted(str(file) for file in (ATTENTION / "native").glob("*.cpp")),
            depends=sorted(str(file) for file in (ATTENTION / "native").glob("*.h")),
            language="c++",
        ),
    ],
    cmdclass={"build_ext": BuildKernels},
    package_dir={"caracal_kernels": str(PACKAGE)},
)
