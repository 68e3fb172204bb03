"""Reads tokenizer.json with the tokenizers library, whose bugs are errors of the file here."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tokenizers import Tokenizer

from services.checkpoint.regular_files import read_whole

SAMPLE = "Hello, world 123\n\t<tag> 你好 naïve 🙂 \x00 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!"


class BadTokenizer(ValueError):
    """Expected: tokenizer.json cannot be used; the message, of one line, does not name the file."""


def read_tokenizer(path: Path) -> Tokenizer:
    """Returns the tokenizer, without truncation and padding: those are settings of training. Raises BadTokenizer."""
    try:
        data = read_whole(path)
    except OSError as error:
        raise BadTokenizer(error.strerror or str(error)) from None
    with _panics_are_quiet():
        try:
            tokenizer = Tokenizer.from_buffer(data)
            tokenizer.no_truncation()
            tokenizer.no_padding()
            tokenizer.decode(tokenizer.encode(SAMPLE, add_special_tokens=False).ids)
        except BaseException as error:
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise BadTokenizer(str(error).partition("\n")[0]) from None
    return tokenizer


@contextmanager
def _panics_are_quiet() -> Iterator[None]:
    """Keeps what Rust prints of a panic from standard error, where the error itself is to be the only line."""
    sys.stderr.flush()
    saved, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nothing)
