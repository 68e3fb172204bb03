"""Runs `caracal` as a user does, in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from services.cli.app import app


def write_kubeconfig(path: Path, server: str, **more: Any) -> None:
    """A context `lab` with namespace `models`."""
    config = {
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "lab", "context": {"cluster": "c", "user": "u", "namespace": "models"}}],
    }
    path.write_text(json.dumps(config | more))


def run(*words: str) -> tuple[int, str]:
    """Exit code and all it said."""
    done = CliRunner().invoke(app, [*words], env={"COLUMNS": "200"})
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def refused(*words: str) -> str:
    """The one line a command ends with."""
    code, said = run(*words)
    assert (code, len(said.strip().splitlines())) == (1, 1), said
    return said
