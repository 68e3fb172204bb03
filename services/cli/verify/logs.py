"""Reads records: all of every file is checked before anything is replayed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from services.router.recording.lines import BadLine, Header, Recorded, parse_line

MAX_LINE_BYTES = 256 << 20


class BadLog(Exception):
    """A file that is no record. The message names the file, the line and the field."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One request and where it stands."""

    file: Path
    line: int
    recorded: Recorded

    @property
    def comparable(self) -> bool:
        """Whether there is anything to compare: tokens, or an ending that a worker gave."""
        return bool(self.recorded.ids or self.recorded.finish_reason)


@dataclass(slots=True)
class Summary:
    """What records hold. `headers`: by numerics class, of comparable requests only; `requests`: these, by class."""

    headers: dict[str, Header] = field(default_factory=dict)
    requests: dict[str, int] = field(default_factory=dict)
    without_tokens: int = 0

    @property
    def total(self) -> int:
        return sum(self.requests.values())


def read(files: Sequence[Path]) -> Iterator[Entry]:
    """Yields the requests in their order. Raises BadLog."""
    for file in files:
        for line, _, recorded in _lines(file):
            if recorded is not None:
                yield Entry(file, line, recorded)


def summarise(files: Sequence[Path]) -> Summary:
    """Reads everything once. Raises BadLog."""
    found = Summary()
    known: dict[str, Header] = {}
    for file in files:
        known.clear()
        for line, header, recorded in _lines(file):
            if header is not None:
                known[header.numerics_class] = header
            if recorded is None:
                continue
            if not Entry(file, line, recorded).comparable:
                found.without_tokens += 1
                continue
            name = recorded.numerics_class
            if name not in known:
                raise BadLog(f"{file}, line {line}: numerics_class is {name!r}, and no header before it names that")
            found.headers.setdefault(name, known[name])
            found.requests[name] = found.requests.get(name, 0) + 1
    return found


def _lines(file: Path) -> Iterator[tuple[int, Header | None, Recorded | None]]:
    number = 0
    try:
        with file.open("rb") as opened:
            while text := opened.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(text) > MAX_LINE_BYTES:
                    raise BadLine(f"is longer than {MAX_LINE_BYTES} bytes")
                found = parse_line(text)
                yield number, *((found, None) if isinstance(found, Header) else (None, found))
    except BadLine as error:
        raise BadLog(f"{file}, line {number}: {error}") from None
    except OSError as error:
        raise BadLog(f"{file}: {error.strerror or error}") from None
