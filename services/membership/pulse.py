"""What a router looks at often in Redis."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pulse:
    """`changes` advances when a worker starts, drains, leaves or moves. `term`: the first epoch that the last leader to
    begin may give, whether it has given one or not; 0 before the first leader of all."""

    leads: bool
    epoch: int  # of the published placement table, 0 when there is none
    term: int
    changes: int
    taken: bool = False  # nobody had the leader's lease, and it has been taken
    bare: bool = False  # there is no term, not even 0: Redis is new, or has lost what it had
