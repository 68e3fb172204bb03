"""Opens a worker's checkpoint: a folder with all of it, or with slices."""

from __future__ import annotations

from pathlib import Path

from services.checkpoint.errors import CheckpointError
from services.checkpoint.reader import Checkpoint
from services.weights.errors import FetchError
from services.weights.slices import slices_of


def open_checkpoint(path: Path) -> Checkpoint:
    """Raises CheckpointError."""
    try:
        return Checkpoint.open(path, slices_of(path))
    except FetchError as error:
        raise CheckpointError(str(error)) from None
