"""Arguments of the benchmarks that are checked before anything is measured."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

MOST_THREADS = 1024


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


def folder(text: str) -> Path:
    """The type of an argument that names a folder for results, which is made if need be."""
    path = Path(text)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error.strerror}") from None
    if not os.access(path, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text} cannot be written to")
    return path


def file(text: str) -> Path:
    """The type of an argument that names a file for results, in a folder that is made if need be."""
    path = Path(text)
    folder(str(path.parent))
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder")
    return path
