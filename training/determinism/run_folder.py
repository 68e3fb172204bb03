"""The folder of a run: recipe, log and last checkpoint. A process that is killed at any moment leaves a usable one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

LOG = "log.jsonl"


class RunFolder:
    """`path` contains recipe.json, log.jsonl and checkpoint.safetensors; one process at a time uses it."""

    def __init__(self, path: Path, recipe: dict[str, Any], writes: bool = True) -> None:
        """Makes the folder, or opens it; one rank `writes`. Raises ValueError when the run there has another recipe."""
        self.path, self.writes = path, writes
        if not writes:
            return
        path.mkdir(parents=True, exist_ok=True)
        for left in path.glob(".tmp*"):  # safetensors writes under such a name, and a killed process leaves it
            left.unlink()
        text = json.dumps(recipe, indent=1) + "\n"
        file = path / "recipe.json"
        if file.exists() and file.read_text() != text:
            raise ValueError(f"{file}: the run there has another recipe; choose another --run or remove it")
        _replace(file, text)

    @property
    def log_path(self) -> Path:
        return self.path / LOG

    def write(self, name: str, text: str) -> None:
        """Writes a further file; it is whole or not there."""
        _replace(self.path / name, text)

    def save(self, tensors: dict[str, Tensor]) -> None:
        """Replaces the checkpoint: the file is whole on the disk before it gets its name."""
        assert self.writes
        partial = self.path / "checkpoint.partial"
        save_file(tensors, partial)
        _publish(partial, self.path / "checkpoint.safetensors")

    def load(self) -> dict[str, Tensor] | None:
        """Returns the checkpoint, or None when there is none yet."""
        return _load(self.path)

    def log(self, record: dict[str, Any]) -> None:
        """Appends a line; a record has its `step`. Only the rank that writes does."""
        if not self.writes:
            return
        with self.log_path.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def trim_log(self, step: int) -> None:
        """Drops log lines after a step, which the run will write again, and a last one that is not whole."""
        if not self.writes:
            return
        text = self.log_path.read_text() if self.log_path.exists() else ""
        whole = text[: text.rfind("\n") + 1].splitlines(keepends=True)
        _replace(self.log_path, "".join(line for line in whole if json.loads(line)["step"] <= step))


def read_run(path: Path) -> tuple[dict[str, Any], dict[str, Tensor], str]:
    """Returns recipe, last checkpoint and log of a run, and writes nothing. Raises ValueError when there is none."""
    if not (path / "recipe.json").exists() or (tensors := _load(path)) is None:
        raise ValueError(f"{path}: no run with a checkpoint")
    log = path / LOG
    recipe = json.loads((path / "recipe.json").read_text(encoding="utf-8"))
    return recipe, tensors, log.read_text(encoding="utf-8") if log.exists() else ""


def _load(path: Path) -> dict[str, Tensor] | None:
    file = path / "checkpoint.safetensors"
    return load_file(file) if file.exists() else None


def _replace(file: Path, text: str) -> None:
    partial = file.with_suffix(".partial")
    partial.write_text(text)
    _publish(partial, file)


def _publish(partial: Path, file: Path) -> None:
    """Renames a file after its content has reached the disk, then waits for the new name to."""
    with partial.open("rb") as stream:
        os.fsync(stream.fileno())
    partial.rename(file)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
