"""Output to terminals that cannot show every character, and to those that are gone."""

from __future__ import annotations

import codecs
import contextlib
import io
import sys
import unicodedata

# What a terminal obeys: the text of a model or of a log line must not move the cursor or set the title.
CONTROLS = {code: None for code in (*range(32), 127, *range(128, 160)) if chr(code) not in "\n\t"}
PLAIN = {"·": "-", "–": "-", "…": "...", "µ": "u", "“": '"', "”": '"', "’": "'", "→": "->"}


def plain_where_needed() -> None:
    """From now on, a character that stdout or stderr cannot encode is written as a plain one, and is never an error."""
    codecs.register_error("caracal-plain", _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="caracal-plain")


def say(text: str, end: str = "\n") -> None:
    """Prints to stdout at once. A terminal that was closed meanwhile is no reason to stop a cluster."""
    with contextlib.suppress(OSError):
        print(text, end=end, flush=True)


def is_text(text: str) -> bool:
    """Whether what was typed was text: bytes that are not become lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def without_controls(text: str) -> str:
    """The text without control characters other than line ends and tabs."""
    return text.translate(CONTROLS)


def _plain(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return "".join(map(_one, error.object[error.start : error.end])), error.end


def _one(character: str) -> str:
    base = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return PLAIN.get(character) or base or "?"
