"""Arguments of the benchmarks that are checked before anything is measured."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from training.arguments import number

__all__ = ["MOST_THREADS", "file", "folder", "number"]

MOST_THREADS = 1024


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
