"""What Python's garbage collector need not look at."""

from __future__ import annotations

import gc

# New objects until the young are looked at, and rounds until older ones are. A connection is made of some hundred
# objects: with Python's 700, 10 and 10 a profile of a flooded router shows a good part of its time here.
THRESHOLDS = 20_000, 20, 50


def keep_what_is_made() -> None:
    """Takes everything made until now out of later collections, each of which stops the process for as long as it has
    objects to look at: tens of milliseconds after a start. Later ones are rarer."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
