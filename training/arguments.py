"""Arguments of commands that are checked before anything is computed, and failures that are one line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def number(least: int, most: int = 1 << 20) -> Callable[[str], int]:
    """The type of an argument that is a whole number of `least` to `most`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text} is no whole number of {least} to {most}")
        return value

    return parse


@contextmanager
def named_failures(
    parser: argparse.ArgumentParser, kinds: type[Exception] | tuple[type[Exception], ...], about: str = ""
) -> Iterator[None]:
    """Ends the command with one line, behind `about`, where what its arguments name is not as it should be."""
    try:
        yield
    except kinds as error:
        parser.error(f"{about}: {error}" if about else str(error))
