"""uv, pip-audit and cyclonedx-py, in an environment of their own: they pin other versions of what Caracal needs."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / "build" / "supply" / "tools"


def program(name: str) -> str:
    """Returns the path of a program of the extra `supply`, which is installed the first time."""
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted, done = list(extras["supply"]), FOLDER / "installed.txt"
    if not done.exists() or done.read_text().split() != wanted:
        subprocess.run([sys.executable, "-m", "venv", str(FOLDER)], check=True)
        pip = [str(FOLDER / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, *wanted], check=True)
        done.write_text("\n".join(wanted))
    return str(FOLDER / "bin" / name)
