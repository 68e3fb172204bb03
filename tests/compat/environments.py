"""A virtual environment a client under build/compat, so that no client's pins touch another's, or Caracal's own.

Versions are pinned: Python's in the extra `compat` of pyproject.toml, Node's in package-lock.json beside this file.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from compat.declared import FOLDER, REPO, Client

BUILD = REPO / "build" / "compat"
INSTALL_S = 900


class NotInstalled(Exception):
    """A client's package cannot be installed here; the text says why."""


def pins() -> dict[str, str]:
    """Returns the requirements of the extra `compat` by the package's name, as `name==version`."""
    extra = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["optional-dependencies"]["compat"]
    return {re.split(r"[\[=]", pin)[0]: pin for pin in extra}


def version(client: Client) -> str:
    """Returns the pinned version."""
    if client.is_node:
        locked = json.loads((FOLDER / "package-lock.json").read_text())
        return str(locked["packages"][f"node_modules/{client.package}"]["version"])
    return pins()[client.package].split("==")[1]


def command(client: Client) -> list[str]:
    """Installs the client unless it is there already; returns the command that exercises it, without its arguments.

    Raises NotInstalled.
    """
    return _node(client) if client.is_node else _python(client)


def _run(*words: str | Path, folder: Path | None = None) -> None:
    try:
        subprocess.run(words, check=True, capture_output=True, text=True, timeout=INSTALL_S, cwd=folder)
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if re.search("error", line, re.I)]
        raise NotInstalled(lines[-1] if lines else str(error)) from error
    except subprocess.TimeoutExpired as error:
        raise NotInstalled(f"{words[0]} has not ended after {INSTALL_S} s") from error


def _python(client: Client) -> list[str]:
    folder = BUILD / client.name
    python, done = folder / "bin" / "python", folder / "installed.txt"
    wanted = [pins()[name] for name in (client.package, *client.more)]
    if not done.exists() or done.read_text().split() != wanted:
        _run(sys.executable, "-m", "venv", folder)
        pip = (python, "-m", "pip", "install", "--disable-pip-version-check")
        if client.needs_torch:
            _run(*pip, "torch==2.13.*")  # first, so that a CPU build at hand is taken
        _run(*pip, *wanted)
        done.write_text("\n".join(wanted))
    return [str(python), "-m", "compat.probe", f"compat.clients.{client.name}"]


def _node(client: Client) -> list[str]:
    if shutil.which("npm") is None:
        raise NotInstalled("npm is not installed")
    folder, lock = BUILD / "node", (FOLDER / "package-lock.json").read_text()
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / "installed.json"
    if not done.exists() or done.read_text() != lock:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(FOLDER / name, folder / name)
        _run("npm", "ci", "--no-audit", "--no-fund", "--fetch-retries", "1", folder=folder)
        done.write_text(lock)
    # Node looks for packages beside a module's file, so the modules go where the packages are.
    for path in [FOLDER / "probe.mjs", *(FOLDER / "clients").glob("*.mjs")]:
        shutil.copy(path, folder / path.name)
    (folder / "features.json").write_text(json.dumps(_shared()))
    return ["node", str(folder / "probe.mjs"), f"./{client.module}"]


def _shared() -> dict[str, object]:
    from compat import features

    return {name: value for name, value in vars(features).items() if name.isupper()}
