"""How much of a migration goes on at once, and how long who leaves waits for it."""

from __future__ import annotations

AT_ONCE = 2  # sequences whose pages come; others wait, as they would for being computed
INSERT_BYTES = 16 << 20  # that are copied between two steps; a page at least
UNASKED_S = 2.0  # without a call: nobody will make one
HANDOVER_S = 10.0  # for pages to be fetched, if less of the drain timeout is left
