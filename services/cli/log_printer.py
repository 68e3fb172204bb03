"""Prints log lines of many workers, each behind its worker's name in a colour of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from services.cli.log_lines import LEVELS, LogLine
from services.cli.terminal import without_controls

COLOURS = ("cyan", "green", "magenta", "blue", "yellow", "bright_cyan", "bright_green", "bright_magenta", "bright_blue")


class LogPrinter:
    """To stdout; colours only where that is a terminal that has them."""

    def __init__(self, workers: Iterable[str], as_json: bool) -> None:
        self._json = as_json
        self._console = Console(soft_wrap=True, highlight=False)
        self._colours: dict[str, str] = {}
        self._width = 0
        for worker in workers:
            self._colour(worker)

    def print(self, lines: Iterable[LogLine]) -> None:
        """Prints lines in the given order, and flushes. Raises BrokenPipeError when nobody reads any more."""
        for line in lines:
            if self._json:
                sys.stdout.write(line.as_json() + "\n")
                continue
            colour = self._colour(line.worker)
            prefix = Text(f"{line.worker:<{self._width}} | ", style=colour)
            self._console.print(prefix + Text(without_controls(line.shown()), style=LEVELS.get(line.level, "")))
        sys.stdout.flush()

    def _colour(self, worker: str) -> str:
        self._width = max(self._width, len(worker))
        return self._colours.setdefault(worker, COLOURS[len(self._colours) % len(COLOURS)])
