"""Child processes of a local cluster, each with its own log file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

LAUNCHER = Path(__file__).with_name("dies_with_parent.py")
TAIL_BYTES = 20_000
NOTHING, PIPE = subprocess.DEVNULL, subprocess.PIPE


@dataclass(slots=True)
class Child:
    """A child process and its log file. `terminated_at`: when it was sent SIGTERM to leave the cluster."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    started: float = field(default_factory=time.monotonic)
    terminated_at: float | None = None

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    @property
    def pid(self) -> int:
        return self.process.pid

    def signal(self, number: signal.Signals) -> None:
        if self.alive:
            self.process.send_signal(number)

    def last_log_line(self) -> str:
        """Why it ended, from its log: its last line with the prefix "caracal: " if there is one, else its last line."""
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - TAIL_BYTES))
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
        errors = [line.removeprefix("caracal: ") for line in lines if line.startswith("caracal: ")]
        if errors:
            return errors[-1]
        return _event(lines[-1]) if lines else "its log is empty"


def import_path() -> str:
    """PYTHONPATH of a child that is started with -P, so that its imports are this process's.

    The working directory is in it only if Caracal lies there: a user's folder may hold a queue.py or a redis.py.
    """
    root = Path(__file__).resolve().parents[2]
    try:
        here = Path.cwd()
    except FileNotFoundError:  # it was deleted
        here = Path()
    entries = [Path(entry).resolve() for entry in sys.path if os.path.isabs(entry) and os.path.isdir(entry)]
    kept = dict.fromkeys(entry for entry in entries if entry == root or entry != here)
    return os.pathsep.join(map(str, (*kept, *({root} - kept.keys()))))


def start(name: str, command: list[str], log: Path, environment: Mapping[str, str], *, stdin: int = NOTHING) -> Child:
    """Starts `command` (its first word a path) in a session of its own, so that Ctrl-C reaches only this process.

    `stdin`: PIPE, or NOTHING to read.
    """
    with log.open("ab") as sink:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), *command],
            stdin=stdin,
            stdout=sink,
            stderr=sink,
            env={**os.environ, **environment},
            start_new_session=True,
        )
    return Child(name, process, log)


def end(children: Iterable[Child], grace_s: float) -> None:
    """Ends children: SIGTERM, SIGTERM again halfway through `grace_s` to cut drains short, SIGKILL at its end."""
    children = [child for child in children if child.alive]
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
        for child in children:
            child.signal(number)
        deadline = time.monotonic() + (grace_s / 2 if number is signal.SIGTERM else 10)
        while any(child.alive for child in children) and time.monotonic() < deadline:
            time.sleep(0.02)


def _event(line: str) -> str:
    """The event of a JSON log line; any other line unchanged."""
    try:
        parsed = json.loads(line)
    except ValueError:
        return line
    return str(parsed.get("event", line)) if isinstance(parsed, dict) else line
