"""What `caracal plan` cannot do, in one line."""

from __future__ import annotations


class BadPlan(ValueError):
    """No plan can be made. The message is one line, with the nearest that can."""
