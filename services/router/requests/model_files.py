"""Reads the small files of a checkpoint directory; what is wrong with one is an AssetError of one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from services.checkpoint.regular_files import read_whole


class AssetError(ValueError):
    """Expected: a file of the checkpoint directory is missing or wrong; the one-line message names it."""


def read_text(path: Path) -> str:
    """Raises AssetError naming the file."""
    try:
        return read_whole(path).decode()
    except OSError as error:
        raise AssetError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise AssetError(f"{path}: not UTF-8: {error.reason} at byte {error.start}") from None


def read_json(path: Path) -> dict[str, Any]:
    """Returns a JSON object. Raises AssetError naming the file."""
    text = read_text(path)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # a number of many digits, or too many brackets
        raise AssetError(f"{path}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise AssetError(f"{path}: not a JSON object")
    return value


def read_json_if_there(path: Path) -> dict[str, Any]:
    """Returns a JSON object, empty if there is no such file. Raises AssetError naming the file."""
    return read_json(path) if path.exists() else {}
