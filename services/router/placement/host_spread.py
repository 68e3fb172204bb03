"""Brings replicas of an expert that share a host to other hosts. Pure.

Legend: L layers; E experts of a layer; W workers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from services.router.placement.limits import Limits
from services.router.placement.load import Floats
from services.router.placement.table_view import Placed


def spread_hosts(placed_LEW: Placed, rows_LE: Floats, limits: Limits, moves: int) -> int:
    """Changes `placed_LEW` so that fewer replicas share a host; returns how many of `moves` are left.

    Each goes to a host without a replica, in exchange for an expert with about as many rows, else where there is room.
    """
    if not limits.hosts_shared:
        return moves
    share_LE = rows_LE / np.maximum(placed_LEW.sum(axis=2), 1)
    on_host_LEH = limits.on_hosts(placed_LEW)
    others = len(np.unique(limits.host_W[limits.gains_W]))
    held_W = placed_LEW.sum(axis=(0, 1))  # until the change is over
    double_LE = (on_host_LEH > 1).any(axis=2) & ((on_host_LEH > 0).sum(axis=2) < others)
    for layer, item in np.argwhere(double_LE).tolist():
        if moves < 2:
            break
        moves -= _spread(placed_LEW, held_W, share_LE[layer], limits, layer, item)
    return moves


def _spread(
    placed_LEW: Placed, held_W: NDArray[np.int64], share_E: Floats, limits: Limits, layer: int, item: int
) -> int:
    """Moves one replica of an item; returns how many experts have to be loaded for it, and adds them to `held_W`."""
    placed_EW, host_W = placed_LEW[layer], limits.host_W
    holders = np.flatnonzero(placed_EW[item])
    hosts, first = np.unique(host_W[holders], return_index=True)
    if len(hosts) == len(holders):
        return 0  # it was given for another one, and is apart already
    giver = int(np.delete(holders, first)[0])
    gains_W = limits.gains_W & (held_W < limits.holds_W)
    to_W = gains_W & ~np.isin(host_W, hosts)
    if gains_W[giver]:
        beside_EW = placed_EW[:, host_W == host_W[giver]]
        may_EW = placed_EW & to_W & ~beside_EW.any(axis=1)[:, None]
        if may_EW.any():
            off_EW = np.where(may_EW, np.abs(share_E - share_E[item])[:, None], np.inf)
            back, taker = np.unravel_index(int(off_EW.argmin()), off_EW.shape)
            placed_EW[item, [giver, taker]] = False, True
            placed_EW[back, [giver, taker]] = True, False
            held_W[[giver, int(taker)]] += 1
            return 2
    count_W = placed_LEW.sum(axis=(0, 1))
    room_W = to_W & (count_W < limits.most_W)
    if count_W[giver] <= limits.least_W[giver] or not room_W.any():
        return 0
    taker = np.where(room_W, share_E @ placed_EW / limits.speed_W, np.inf).argmin()
    placed_EW[item, [giver, taker]] = False, True
    held_W[taker] += 1
    return 1
