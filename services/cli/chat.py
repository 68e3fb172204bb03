"""`caracal chat`: a conversation in the terminal, or one turn for each line of a pipe.

Lines are edited with readline, which Python has: history and editing of one line are all that is needed, and it leaves
a terminal that cannot move its cursor alone. Turns are kept in memory only.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from services.cli.chat_history import Answer, History
from services.cli.generate import RequestFailed, stream_deltas
from services.cli.terminal import is_text, without_controls

HELP = """\
/system TEXT   set the system message; without TEXT, show it
/clear         forget the conversation, keep the system message
/save FILE     write the conversation as JSON
/help          this list
/exit          leave; so does Ctrl-D
Ctrl-C stops an answer. A line that ends in a backslash goes on in the next one."""
STYLES = {"reasoning": "\033[2m", "tool": "\033[36m"}
LABELS = {"reasoning": "[thinking] ", "tool": "[tool call] ", "content": ""}


@dataclass(slots=True)
class Chat:
    """A conversation with the model behind `url`. `options`: further fields of each request."""

    url: str
    history: History
    options: dict[str, Any] = field(default_factory=dict)
    api_key: str = ""
    interactive: bool = True
    colours: bool = False
    out: TextIO = field(default_factory=lambda: sys.stdout)

    def run(self) -> int:
        """Takes lines until the end of input; returns the exit code: 1 when a turn of a pipe failed."""
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="surrogateescape")  # bytes that are no text are found line by line
        while True:
            try:
                text = self._line()
            except EOFError:
                if self.interactive:
                    self._print("")
                return 0
            except KeyboardInterrupt:
                self._print("\n(/exit or Ctrl-D leaves)")
                continue
            if not is_text(text):
                print("caracal: a line of standard input is not UTF-8; it is not sent", file=sys.stderr)
                if not self.interactive:
                    return 1
                continue
            if not text.strip():
                continue
            if text.startswith("/"):
                if self._command(text):
                    return 0
                continue
            if not self._turn(text) and not self.interactive:
                return 1

    def _line(self) -> str:
        """The next line; raises EOFError."""
        prompt = ""
        if self.interactive:
            call = self.history.awaited
            prompt = f"result of {call['function']['name']}> " if call else "> "
        text = _read(prompt)
        while text.endswith("\\"):
            text = text[:-1] + "\n" + _read(". " if self.interactive else "")
        return text

    def _turn(self, text: str) -> bool:
        """Sends a message and streams the answer; returns whether that worked. Ctrl-C ends the answer only."""
        if not self.history.add(text):
            return True
        answer, shown = Answer(), ""
        try:
            for delta in stream_deltas(self.url, self.history.to_send(), api_key=self.api_key, **self.options):
                for kind, part in answer.take(delta):
                    shown = self._show(kind, part, shown)
        except KeyboardInterrupt:
            self._end(shown)
            self._print("(stopped)")
        except RequestFailed as error:
            self._end(shown)
            print(f"caracal: {error}", file=sys.stderr)
            if answer.content:
                self.history.messages.append(answer.message())
            else:
                self.history.messages.pop()
            return False
        else:
            self._end(shown)
        if answer.content or answer.calls:
            self.history.messages.append(answer.message())
        return True

    def _show(self, kind: str, part: str, before: str) -> str:
        """Writes a part; a change of kind begins a new line with a label. Returns the kind."""
        if kind != before:
            if before:
                self._end(before)
            self.out.write(self._style(kind) + LABELS[kind])
        self.out.write(without_controls(part) if self.out.isatty() else part)
        self.out.flush()
        return kind

    def _end(self, kind: str) -> None:
        self._print("\033[0m" if self._style(kind) else "")

    def _style(self, kind: str) -> str:
        return STYLES.get(kind, "") if self.colours else ""

    def _command(self, line: str) -> bool:
        """Obeys a line that begins with a slash; returns whether to leave."""
        name, _, rest = line.strip().partition(" ")
        if name in ("/exit", "/quit"):
            return True
        if name == "/clear":
            self.history.messages.clear()
        elif name == "/system" and rest:
            self.history.system = rest.strip()
        elif name == "/system":
            self._print(self.history.system or "(no system message)")
        elif name == "/save":
            self._save(rest.strip())
        elif name == "/help":
            self._print(HELP)
        else:
            self._print(f"there is no {name}\n{HELP}")
        return False

    def _save(self, name: str) -> None:
        if not name:
            self._print("/save needs a file")
            return
        try:
            Path(name).expanduser().write_text(json.dumps({"messages": self.history.to_send()}, indent=2) + "\n")
        except OSError as error:
            self._print(f"{name}: {error.strerror or error}")

    def _print(self, text: str) -> None:
        print(text, file=self.out, flush=True)


def _read(prompt: str) -> str:
    return input(prompt)


def use_readline() -> None:
    """Makes `input` edit lines and remember them, where Python has readline and the terminal can."""
    if os.environ.get("TERM", "dumb") != "dumb":
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401


def has_colours() -> bool:
    """Whether stdout is a terminal that shows colours, and nobody has turned them off."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb" and not os.environ.get("NO_COLOR")
