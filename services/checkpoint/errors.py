"""The one error of a model directory."""

from __future__ import annotations


class CheckpointError(ValueError):
    """A model directory that cannot be served. The message is one line: file, tensor or field, and what is wrong."""


def bad_field(field: str, why: str) -> CheckpointError:
    """An error of a field of config.json."""
    return CheckpointError(f"config.json: {field}: {why}")
