"""Commands of `caracal` as a user types them, each a process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-P", "-m", "services.cli.app"]  # -P: as the installed command, from any folder


def new_user(home_directory: Path) -> dict[str, str]:
    """The environment of a user with an empty home directory."""
    (home_directory / "tmp").mkdir()
    path = os.pathsep.join(str(REPO / folder) for folder in ("", "kernels", "proto"))
    kept = {name: os.environ[name] for name in ("PATH", "OMP_NUM_THREADS") if name in os.environ}
    tmp = str(home_directory / "tmp")
    return kept | {"HOME": str(home_directory), "TMPDIR": tmp, "PYTHONPATH": path, "COLUMNS": "200"}


@contextmanager
def up(user: dict[str, str], *arguments: str, folder: Path | None = None) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*COMMAND, "up", *arguments], env=user, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def lines_until(process: subprocess.Popen[str], pattern: str) -> str:
    """Returns what the process prints up to the first line that matches `pattern`, that line included."""
    assert process.stdout
    output = ""
    for line in process.stdout:
        output += line
        if re.search(pattern, line):
            return output
    raise AssertionError(f"it ended: {output}\n{process.stderr.read() if process.stderr else ''}")


def command(user: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], env=user, capture_output=True, text=True, timeout=120)


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """Returns the error message: the one line on stderr besides log lines of level info."""
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if '"level": "info"' not in line]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("caracal: ")
    return lines[0]


def completed(user: dict[str, str], line: str) -> list[str]:
    """What bash would offer for the last word of the line; asserts that nothing slow is imported for that."""
    words = line.split(" ")
    environment = user | {
        "_CARACAL_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    code = "import sys; sys.argv = ['caracal']; from services.cli.app import main; main()"
    done = subprocess.run(
        [sys.executable, "-P", "-X", "importtime", "-c", code],
        env=environment, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    heavy = re.findall(r"\| +(torch|numpy|fastapi|aiohttp|kubernetes|tokenizers)\n", done.stderr)
    assert not heavy, f"completion waits for {heavy}"
    return done.stdout.split()
