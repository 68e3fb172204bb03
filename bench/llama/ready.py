"""Whether llama.cpp can be measured here, and its process with the twin of a checkpoint."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path
from typing import Any

from bench.processes import BaselineProcess
from services.checkpoint.config import ModelConfig

INSTALL = "make .venv/.bench"


def why_not(python: str) -> str:
    """Why llama.cpp cannot be measured with this interpreter; empty when it can."""
    if importlib.util.find_spec("gguf") is None:
        return "the package gguf is not installed"
    seek = "import importlib.util, sys; sys.exit(importlib.util.find_spec('llama_cpp') is None)"
    try:
        found = subprocess.run([python, "-c", seek]).returncode == 0
    except OSError as error:
        return f"{python}: {error.strerror}"
    return "" if found else f"{python} has no package llama_cpp"


class LlamaBaseline(BaselineProcess):
    """llama.cpp with the twin of a model."""

    def __init__(self, config: ModelConfig, twin: Path, python: str, threads: int, log: Path) -> None:
        """`twin` is written unless it is there. Raises NoTwin, RuntimeError."""
        if not twin.exists():
            from bench.llama.twin import write  # needs gguf, which an installation without the extra has not

            half = twin.with_suffix(".part")
            write(config, half)
            half.rename(twin)
        super().__init__("bench.llama.baseline", [str(twin), str(threads)], log, python=python)
        self._threads = threads
        self._settings: dict[int, str] = {}

    def ask(self, prompts: list[list[int]], new_tokens: int) -> dict[str, Any]:
        answer = super().ask(prompts, new_tokens)
        self._settings[len(prompts)] = answer["settings"]
        return answer

    def described(self) -> str:
        """Versions, flags, threads, and the settings that it chose for each number of streams."""
        parts = [f"{name} {text}" for name, text in self.about.items()]
        chosen = [f"{streams}: {settings}" for streams, settings in self._settings.items()]
        return "; ".join([*parts, f"{self._threads} threads", "settings by streams: " + ", ".join(chosen)])
