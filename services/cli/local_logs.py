"""`caracal logs` of the cluster running on this machine: files that its processes write."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from services.cli.log_lines import LogLine, last, parse_all, since
from services.cli.log_printer import LogPrinter
from services.cli.run_state import NoCluster, find
from services.membership.worker_order import ordinal

POLL_S = 0.2
ROLES = ("redis", "router", "attention", "expert")


@dataclass(slots=True)
class LogFile:
    """A log file, and how much of it has been read."""

    worker: str
    path: Path
    place: int = 0
    at: datetime | None = None  # of the last line
    rest: str = ""  # a line that is still being written

    def read(self, whole: bool = False) -> Iterator[LogLine]:
        """Yields the lines written since the last call; with `whole`, also one without its end."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.place)
                data = file.read()
        except FileNotFoundError:  # the cluster has stopped
            return
        self.place += len(data)
        *texts, self.rest = (self.rest + data.decode(errors="replace")).split("\n")
        if whole and self.rest:
            texts, self.rest = [*texts, self.rest], ""
        for line in parse_all(self.worker, texts, self.at):
            self.at = line.at
            yield line


def log_directory() -> Path:
    """Where the cluster that `caracal status` shows writes its logs. Raises NoCluster."""
    state = find()
    if not state.directory:
        name = state.url or "the cluster of CARACAL_REDIS_URL"
        raise NoCluster(f"{name} was not started here: its logs are where it runs; on Kubernetes give --context")
    return Path(state.directory)


def worker_names(directory: Path) -> list[str]:
    """The names of processes that have logs, by role."""
    names = [path.stem for path in directory.glob("*.log")]
    roles = {name: place for place, name in enumerate(ROLES)}
    return sorted(names, key=lambda name: (roles.get(name.partition("-")[0], len(roles)), ordinal(name)))


def show_logs(workers: list[str], follow: bool, tail: int | None, start: datetime | None, as_json: bool) -> None:
    """Prints logs of these processes, or of all, in the order of time. Raises NoCluster.

    With `follow`, goes on until the cluster has stopped.
    """
    directory = log_directory()
    known = worker_names(directory)
    if unknown := [name for name in workers if name not in known]:
        raise NoCluster(f"there is no {unknown[0]}; there are {', '.join(known)}")
    files = {name: LogFile(name, directory / f"{name}.log") for name in workers or known}
    printer = LogPrinter(files, as_json)
    found = [line for file in files.values() for line in last(since(file.read(whole=not follow), start), tail)]
    printer.print(sorted(found, key=_time))
    while follow and directory.is_dir():
        time.sleep(POLL_S)
        if not workers:
            for name in worker_names(directory):
                files.setdefault(name, LogFile(name, directory / f"{name}.log"))
        printer.print(sorted((line for file in files.values() for line in file.read()), key=_time))
    if follow:
        print("caracal: the cluster has stopped", file=sys.stderr)


def _time(line: LogLine) -> float:
    return line.at.timestamp() if line.at else 0.0
