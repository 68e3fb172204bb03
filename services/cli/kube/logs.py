"""`caracal logs --context`: logs of a release's pods, from the API server. `Any` stands for API objects."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from services.cli.kube.diagnosis import role_of
from services.cli.log_lines import LogLine, parse_all
from services.cli.log_printer import LogPrinter
from services.cli.run_state import NoCluster

if TYPE_CHECKING:
    from services.cli.kube.release import Release


def show_logs(
    release: Release, workers: list[str], follow: bool, tail: int | None, start: datetime | None, as_json: bool
) -> None:
    """Prints logs of these pods, or of all, in the order of time. A name may lack the release's: `expert-0`.

    With `follow`, each pod is read by a thread of its own until its log ends. Raises NoCluster for a pod of `workers`
    whose log cannot be read, or when no log can; else the reason goes to stderr.
    """
    names = [pod.metadata.name for pod in release.pods() if role_of(pod)]
    chosen = [_pod(release, worker, names) for worker in workers] or names
    seconds = None if start is None else max(1, int((datetime.now(UTC) - start).total_seconds()))
    lines = _followed(release, chosen, tail, seconds) if follow else _read(release, chosen, tail, seconds)
    printer = LogPrinter(chosen, as_json)
    failed = 0
    for line in lines:
        if isinstance(line, LogLine):
            printer.print([line])
            continue
        failed += 1
        if workers or failed == len(chosen):
            raise line
        print(f"caracal: {line}", file=sys.stderr)


def _read(release: Release, names: list[str], tail: int | None, seconds: int | None) -> Iterator[LogLine | NoCluster]:
    """Yields why some logs cannot be read, then all lines in the order of time."""
    found: list[LogLine] = []
    for name in names:
        try:
            found += parse_all(name, release.log(name, tail, seconds))
        except NoCluster as error:
            yield error
    yield from sorted(found, key=lambda line: line.at.timestamp() if line.at else 0.0)


def _followed(
    release: Release, names: list[str], tail: int | None, seconds: int | None
) -> Iterator[LogLine | NoCluster]:
    """Yields lines as they come, and why some logs cannot be read, until every log has ended."""
    lines: queue.Queue[LogLine | NoCluster | None] = queue.Queue()
    for name in names:
        threading.Thread(target=_follow, args=(release, name, tail, seconds, lines), daemon=True).start()
    open_logs = len(names)
    while open_logs:
        line = lines.get()
        if isinstance(line, LogLine):
            yield line
            continue
        open_logs -= 1
        if line is not None:
            yield line


def _follow(
    release: Release,
    name: str,
    tail: int | None,
    seconds: int | None,
    lines: queue.Queue[LogLine | NoCluster | None],
) -> None:
    try:
        for line in parse_all(name, release.log(name, tail, seconds, follow=True)):
            lines.put(line)
        lines.put(None)
    except NoCluster as error:
        lines.put(error)


def _pod(release: Release, worker: str, names: list[str]) -> str:
    found = [name for name in names if worker in (name, name.removeprefix(f"{release.name}-"))]
    if not found:
        raise NoCluster(f"release {release.name} has no pod {worker}; it has {', '.join(names) or 'none'}")
    return str(found[0])
