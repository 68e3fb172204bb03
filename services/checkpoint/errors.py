"""The errors of a model directory."""

from __future__ import annotations

LEAST, MOST = 1e-12, 1e12  # of a constant of a model: beyond, fp32 overflows


class CheckpointError(ValueError):
    """A model directory that cannot be served. The message is one line: file, tensor or field, and what is wrong."""


class WeightsUnreachable(CheckpointError):
    """What was to be read is at a store that does not answer now: another try may go well."""


def bad_field(field: str, why: str) -> CheckpointError:
    """An error of a field of config.json."""
    return CheckpointError(f"config.json: {field}: {why}")


def shown(value: object) -> str:
    """A value of a file as a message shows it: escaped, and cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
