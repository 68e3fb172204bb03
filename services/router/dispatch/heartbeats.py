"""How often the two sides of a native session say that they live, and when one is taken for gone."""

from __future__ import annotations

import math

HEARTBEAT_S = 0.05  # between two questions for a sign of life, while a reply is waited for
SILENT_BEATS = 10  # unanswered, the worker is gone: half a second
FEWEST_BEATS = 3  # the same where another worker has the experts
USUAL = 1.5  # times what a call may take: on a busy machine signs of life are late, as calls are


def silent_beats(overdue_s: float) -> int:
    """How many questions in a row a worker may leave unanswered where others have its experts.

    `overdue_s`: after how long its smallest calls are overdue.
    """
    most = min(SILENT_BEATS * HEARTBEAT_S, USUAL * overdue_s)
    return max(FEWEST_BEATS, math.ceil(round(most / HEARTBEAT_S, 3)))
