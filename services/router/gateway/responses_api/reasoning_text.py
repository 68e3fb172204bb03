"""Reasoning in the field `encrypted_content`, from which clients that keep nothing else pass it back.

It is encoded, not encrypted: the same text is in the item's `content`, so there is nothing to hide from its reader.
"""

from __future__ import annotations

import base64
import binascii

PREFIX = "caracal-reasoning:"


def encoded(thought: str) -> str:
    return PREFIX + base64.b64encode(thought.encode()).decode()


def decoded(content: str) -> str | None:
    """Returns the text; None for what another server has made."""
    if not content.startswith(PREFIX):
        return None
    try:
        return base64.b64decode(content.removeprefix(PREFIX), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
