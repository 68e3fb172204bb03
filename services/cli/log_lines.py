"""Log lines of Caracal's processes: when one was written, how it is shown, and which are recent enough. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

REDIS = re.compile(r"\d+:[A-Z] (\d\d \w{3} \d{4} \d\d:\d\d:\d\d\.\d{3}) ")
DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?")
LEAST_SHOWN = ("ts", "level", "event", "role", "worker_id")  # not repeated after the event
LEVELS = {"warning": "yellow", "error": "red", "critical": "red"}


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of a worker's log. `at`: when it was written; a line without a time has that of the one before."""

    worker: str
    text: str
    at: datetime | None = None
    fields: dict[str, Any] = field(default_factory=dict)  # of a JSON line

    @property
    def level(self) -> str:
        return str(self.fields.get("level", "")).lower()

    def shown(self) -> str:
        """The line as people read it: local time, level, event, and further fields as NAME=VALUE."""
        if not self.fields:
            return self.text
        clock = self.at.astimezone().strftime("%H:%M:%S.%f")[:-3] if self.at else ""
        more = [f"{name}={value}" for name, value in self.fields.items() if name not in LEAST_SHOWN]
        return " ".join(filter(None, [clock, self.level, str(self.fields.get("event", "")), *more]))

    def as_json(self) -> str:
        """One JSON object: the fields of the line, or its text as `event`, and the worker."""
        found = self.fields or {"event": self.text, **({"ts": _text(self.at)} if self.at else {})}
        return json.dumps({"worker": self.worker, **found})


def parse(worker: str, text: str, before: datetime | None = None) -> LogLine:
    """Parses a line of the worker's log; `before` is the time of the line before it."""
    if text.startswith("{"):
        try:
            fields = json.loads(text)
            return LogLine(worker, text, datetime.fromisoformat(str(fields["ts"]).replace("Z", "+00:00")), fields)
        except (ValueError, KeyError, TypeError, RecursionError):
            return LogLine(worker, text, before)
    if found := REDIS.match(text):
        try:
            return LogLine(worker, text, datetime.strptime(found[1], "%d %b %Y %H:%M:%S.%f").astimezone(UTC))
        except ValueError:
            return LogLine(worker, text, before)
    return LogLine(worker, text, before)


def parse_all(worker: str, texts: Iterable[str], before: datetime | None = None) -> Iterator[LogLine]:
    """Parses lines in their order."""
    for text in texts:
        if text.strip():
            line = parse(worker, text.rstrip("\n"), before)
            before = line.at
            yield line


def since(lines: Iterable[LogLine], start: datetime | None) -> list[LogLine]:
    """The lines that were not written before `start`."""
    return [line for line in lines if start is None or (line.at is not None and line.at >= start)]


def last(lines: list[LogLine], count: int | None) -> list[LogLine]:
    """The last `count` lines; None = all."""
    return lines if count is None else lines[max(0, len(lines) - count) :]


def parse_since(text: str, now: datetime) -> datetime:
    """Parses 5m, 1h30m, 2d or a time such as 2026-11-29T22:00:00Z. Raises ValueError."""
    found = DURATION.fullmatch(text)
    if found and any(found.groups()):
        days, hours, minutes, seconds = (float(part or 0) for part in found.groups())
        return now - timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    try:
        at = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise ValueError(f"--since is {text!r}: write 90s, 5m, 1h30m, 2d or 2026-11-29T22:00:00Z") from None
    return at.astimezone(UTC)


def _text(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")
