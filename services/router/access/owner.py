"""Whose request the running task works for: the name of its API key, empty without keys."""

from __future__ import annotations

from contextvars import ContextVar

owner: ContextVar[str] = ContextVar("owner", default="")
