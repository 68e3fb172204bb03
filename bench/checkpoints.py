"""The benchmark's checkpoints: random weights of a config in bench/config, written once into bench/tmp."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from bench.processes import REPO
from services.checkpoint.reader import Checkpoint

CONFIGS, MODELS = REPO / "bench" / "config", REPO / "bench" / "tmp"
console = Console(stderr=True)


def prepare(name: str, dtype: str = "bfloat16", *, drafts: bool = False) -> Checkpoint:
    """Returns the checkpoint of a config of bench/config; with `drafts` one that has multi-token prediction as well."""
    folder = "-".join([name, *([] if dtype == "bfloat16" else [dtype]), *(["drafts"] if drafts else [])])
    return make(CONFIGS / f"{name}.json", MODELS / folder, dtype, drafts=drafts)


def make(config: Path, model: Path, dtype: str = "bfloat16", *, drafts: bool = False) -> Checkpoint:
    """Returns the checkpoint at `model`: random weights of `config`, seed 0; written unless it is there."""
    if not (model / "config.json").exists():
        console.print(f"writing a checkpoint of {config.name}")
        maker = REPO / "tests" / "support" / "tiny_checkpoint.py"
        script = [sys.executable, str(maker), str(model), "--config", str(config), "--dtype", dtype]
        script += ["--drafts"] * drafts
        path = os.pathsep.join(str(REPO / part) for part in ("", "kernels", "proto", "tests"))
        subprocess.run(script, check=True, env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.DEVNULL)
    return Checkpoint.open(model)
