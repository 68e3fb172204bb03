"""What Python's garbage collector need not look at; how often it looks at all is in `services/__init__.py`."""

from __future__ import annotations

import gc


def keep_what_is_made() -> None:
    """Takes everything made until now out of later collections, each of which stops the process for as long as it has
    objects to look at: tens of milliseconds after a start."""
    gc.collect()
    gc.freeze()


def keep_what_is_imported() -> None:
    """The same for what imports have made, whose garbage is not worth a look at all of it, a tenth of a second."""
    gc.freeze()
