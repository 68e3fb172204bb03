"""What `caracal verify` prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from services.cli.verify.compare import Difference
from services.cli.verify.layers import Located
from services.cli.verify.logs import Entry
from services.cli.verify.replay import Outcome

SHOWN = 10  # differing requests


@dataclass(slots=True)
class Report:
    """One verification. `other_class`: what differs between the record's numerics class and the cluster's."""

    outcome: Outcome = field(default_factory=Outcome)
    without_tokens: int = 0
    other_class: str = ""
    located: Located | None = None
    not_located: str = ""  # why no layer is named

    @property
    def equal(self) -> bool:
        return not self.outcome.differing and not self.outcome.failed

    def text(self) -> str:
        """For people. The first line has the verdict."""
        found = self.outcome
        lines = [self._verdict()]
        if self.other_class:
            lines.append(f"compared across numerics classes: {self.other_class}")
        if self.without_tokens:
            lines.append(f"{self.without_tokens} requests of the record have no tokens and were not replayed")
        if found.attempts > found.requests:
            lines.append(f"{found.attempts - found.requests} attempts were continued on another worker")
        ordered = sorted(found.differing, key=lambda one: (one[0].file, one[0].line))
        for number, (entry, difference) in enumerate(ordered[:SHOWN]):
            lines.append(f"{_place(entry)}: {difference.words(len(entry.recorded.prompt_ids))}")
            if number == 0 and (self.located is not None or self.not_located):
                lines.append(f"  {self.located.words if self.located is not None else self.not_located}")
        if len(ordered) > SHOWN:
            lines.append(f"... and {len(ordered) - SHOWN} more")
        if found.failed:
            entry, why = found.failed[0]
            lines.append(f"{len(found.failed)} could not be replayed; the first: {_place(entry)}: {why}")
        return "\n".join(lines)

    def values(self) -> dict[str, Any]:
        """For programs."""
        found = self.outcome
        ordered = sorted(found.differing, key=lambda one: (one[0].file, one[0].line))
        return {
            "equal": self.equal,
            "requests": found.requests,
            "tokens": found.tokens,
            "attempts": found.attempts,
            "cached_tokens": found.cached,
            "scored": found.scored,
            "without_tokens": self.without_tokens,
            "other_class": self.other_class or None,
            "differing": [_values(*one) for one in ordered],
            "located": self.located.values if self.located is not None else None,
            "not_located": self.not_located or None,
            "failed": [_where(entry) | {"error": why} for entry, why in found.failed],
        }

    def _verdict(self) -> str:
        found = self.outcome
        counts = f"{found.requests} requests, {found.tokens} tokens"
        if found.scored:
            counts += f", {found.scored} log-probabilities of answers as prompts"
        if self.equal:
            return f"{counts}, 0 bits differ"
        differing = f", {len(found.differing)} requests differ" if found.differing else ""
        failed = f", {len(found.failed)} failed" if found.failed else ""
        return f"{counts} the same{differing}{failed}"


def class_difference(recorded: Mapping[str, str], found: Mapping[str, str]) -> str:
    """The parts of two numerics classes that differ, in words."""
    parts = [
        f"{name} {recorded.get(name, 'unknown')[:40]} -> {found.get(name, 'unknown')[:40]}"
        for name in dict.fromkeys((*recorded, *found))
        if recorded.get(name) != found.get(name)
    ]
    return "; ".join(parts)


def _place(entry: Entry) -> str:
    return f"{entry.file}, line {entry.line}, request {entry.recorded.request_id}"


def _where(entry: Entry) -> dict[str, Any]:
    return {"file": str(entry.file), "line": entry.line, "request_id": entry.recorded.request_id}


def _values(entry: Entry, difference: Difference) -> dict[str, Any]:
    return _where(entry) | {
        "what": difference.what,
        "in": "prompt" if difference.in_prompt else "answer",
        "token": difference.token,
        "recorded": difference.recorded,
        "found": difference.found,
    }
