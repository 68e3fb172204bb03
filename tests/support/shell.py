"""A shell in which tests run commands as a user types them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

BIN = Path(sys.executable).parent
# Files that stand for "installed": a copy is newer than what it was installed from, and must not install again.
INSTALLED = [option for name in (".torch", ".run", ".dev", ".helm") for option in ("--old-file", f".venv/{name}")]


@dataclass(frozen=True)
class Shell:
    """A shell in `folder`, where `make` and `caracal` are what the documents mean by them."""

    folder: Path
    environment: dict[str, str]

    def start(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._spelled(command),
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C goes to make and to what it started alike
        )

    def run(self, *command: str, timeout: float = 600, input: str | None = None) -> str:
        """Returns what the command writes to stdout; `input` is its stdin.

        Raises:
            AssertionError: it failed; the message has its output.
        """
        done = subprocess.run(
            self._spelled(command),
            cwd=self.folder,
            env=self.environment,
            input=input,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def _spelled(self, command: tuple[str, ...]) -> list[str]:
        program, *arguments = command
        return ["make", *INSTALLED, *arguments] if program == "make" else [str(BIN / program), *arguments]
