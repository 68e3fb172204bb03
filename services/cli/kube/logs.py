"""`caracal logs --context`: logs of a release's pods, from the API server. `Any` stands for API objects."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from services.cli.kube.diagnosis import role_of
from services.cli.log_lines import LogLine, last, parse_all
from services.cli.log_printer import LogPrinter
from services.cli.run_state import NoCluster

if TYPE_CHECKING:
    from services.cli.kube.release import Release


def show_logs(
    release: Release, workers: list[str], follow: bool, tail: int | None, start: datetime | None, as_json: bool
) -> None:
    """Prints logs of these pods, or of all, in the order of time. A name may lack the release's: `expert-0`.

    With `follow`, each pod is read by a thread of its own until its log ends. Raises NoCluster.
    """
    names = [pod.metadata.name for pod in release.pods() if role_of(pod)]
    chosen = [_pod(release, worker, names) for worker in workers] or names
    seconds = None if start is None else max(1, int((datetime.now(UTC) - start).total_seconds()))
    printer = LogPrinter(chosen, as_json)
    if not follow:
        found = [
            line for name in chosen for line in last(list(parse_all(name, release.log(name, tail, seconds))), tail)
        ]
        printer.print(sorted(found, key=lambda line: line.at.timestamp() if line.at else 0.0))
        return
    lines: queue.Queue[LogLine | NoCluster | None] = queue.Queue()
    for name in chosen:
        threading.Thread(target=_follow, args=(release, name, tail, seconds, lines), daemon=True).start()
    for line in _until_all_end(lines, len(chosen)):
        printer.print([line])


def _until_all_end(lines: queue.Queue[LogLine | NoCluster | None], open_logs: int) -> Iterator[LogLine]:
    """Yields lines until every log has ended. Raises the NoCluster of one that could not be read."""
    while open_logs:
        line = lines.get()
        if isinstance(line, NoCluster):
            raise line
        if line is None:
            open_logs -= 1
        else:
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
