"""Streams whose events have ids, read by a client that may leave and come back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx2


@dataclass
class Event:
    id: str
    data: str


def headers_of(request_id: str, event_id: str = "0", **more: str) -> dict[str, str]:
    return {"X-Request-Id": request_id, "Last-Event-ID": event_id} | more


def events_of(
    url: str, body: dict[str, Any], headers: dict[str, str], most: int = 10**6, events: list[Event] | None = None
) -> list[Event]:
    """The events of a stream, and of no more than `most`: then the client leaves. Those before a break are kept.

    They are put into `events`, if it is given, as they come.
    """
    events = [] if events is None else events
    lines: dict[str, str] = {}
    try:
        with httpx2.stream("POST", url, json=body, headers=headers, timeout=30) as answer:
            assert answer.status_code == 200, answer.read()
            for line in answer.iter_lines():
                if line:
                    name, _, value = line.partition(": ")
                    lines[name] = value
                    continue
                if "data" in lines:
                    events.append(Event(lines.get("id", ""), lines["data"]))
                lines = {}
                if len(events) >= most:
                    break
    except httpx2.TransportError:
        return events
    return events
