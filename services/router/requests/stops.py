"""Finds stop strings in a stream of text, wherever the token borders fall, and never lets part of one out."""

from __future__ import annotations

from collections.abc import Sequence


def held_length(text: str, patterns: Sequence[str]) -> int:
    """Returns the length of the longest suffix of `text` that begins a pattern without being all of it."""
    longest = 0
    for pattern in patterns:
        for length in range(min(len(pattern) - 1, len(text)), longest, -1):
            if text.endswith(pattern[:length]):
                longest = length
                break
    return longest


def first_match(text: str, patterns: Sequence[str]) -> tuple[int, int] | None:
    """Returns (start, end) of the match that is complete first; of several complete at once, the longest.

    The first *complete* match does not depend on how the text was cut into deltas; the first *begun* one would.
    """
    ends = [(start + len(pattern), start) for pattern in patterns if (start := text.find(pattern)) >= 0]
    if not ends:
        return None
    end, start = min(ends)
    return start, end


class StopStrings:
    """Passes text on until a stop string is complete; holds back what may become one."""

    def __init__(self, patterns: Sequence[str], *, include: bool = False) -> None:
        self._patterns = tuple(patterns)
        self._include = include
        self._held = ""
        self.hit: str | None = None

    def push(self, text: str) -> str:
        """Returns the text that may be shown now; empty once `hit` is set."""
        if self.hit is not None:
            return ""
        if not self._patterns:
            return text
        text = self._held + text
        match = first_match(text, self._patterns)
        if match is not None:
            start, end = match
            self.hit, self._held = text[start:end], ""
            return text[: end if self._include else start]
        held = held_length(text, self._patterns)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def finish(self) -> str:
        """Returns the text held back: no stop string can complete any more."""
        held, self._held = self._held, ""
        return held
