"""What attention workers ask at most, and expert workers answer; torch is not imported here."""

from __future__ import annotations

MAX_ROWS = 8192  # of a call, and so of a step: expert workers allocate no larger buffers
