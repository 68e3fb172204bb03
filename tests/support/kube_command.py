"""Runs `caracal` in this process, with a user's arguments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from services.cli.app import app


def write_kubeconfig(path: Path, server: str, **more: Any) -> None:
    """Writes a kubeconfig with a context `lab` and namespace `models`."""
    config = {
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "lab", "context": {"cluster": "c", "user": "u", "namespace": "models"}}],
    }
    path.write_text(json.dumps(config | more))


def run(*words: str) -> tuple[int, str]:
    """Returns (exit code, output)."""
    result = CliRunner().invoke(app, [*words], env={"COLUMNS": "200"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def error_line(*words: str, code: int = 1) -> str:
    """Returns the one line that a failing command prints; `code` is its exit code."""
    found, output = run(*words)
    assert (found, len(output.strip().splitlines())) == (code, 1), output
    return output
