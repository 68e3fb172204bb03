"""How often the two sides of a native session say that they live, and when one is taken for gone."""

from __future__ import annotations

HEARTBEAT_S = 0.05  # between signs of life while a wait lasts
SILENT_BEATS = 10  # without one, the worker is gone: half a second
