"""Traffic as routers have recorded it (`services/router/recording`): when requests came, and how long they were."""

from __future__ import annotations

from collections.abc import Iterable

from services.router.recording.lines import BadLine, Recorded, parse_line
from services.simulator.traffic import Replay


def replay_of(lines: Iterable[bytes]) -> Replay:
    """The requests of a record that got an answer, from the first one's time on. A record names no callers: each
    request has its own. Raises BadLine with the line's number, and where there is no request."""
    found: list[tuple[float, int, int]] = []
    for number, line in enumerate(lines, 1):
        try:
            read = parse_line(line)
        except BadLine as error:
            raise BadLine(f"line {number}: {error}") from None
        if isinstance(read, Recorded) and read.ids:
            found.append((read.started, len(read.prompt_ids), len(read.ids)))
    if not found:
        raise BadLine("no request in it has an answer")
    first = min(started for started, _, _ in found)
    return Replay(
        [(started - first, prompt, answer, f"request-{n}") for n, (started, prompt, answer) in enumerate(sorted(found))]
    )
