"""The golden digest of each expert of a numerics class, as its first replica gave it.

They lie in Redis, too, one field for each layer, so that a new leader knows them, and a cluster that starts anew
compares its first replicas as well.
Legend: E experts of all layers, F of one layer, N some experts, by their index among all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from services.router.placement.table_view import Items

DigestArray = NDArray[np.uint64]
UNKNOWN = 0


class Difference(NamedTuple):
    """An expert whose digest is another than the known one; `stored`: that is only what Redis has."""

    item: int
    given: int
    known: int
    stored: bool


class Digests:
    """What is known of one numerics class."""

    def __init__(self, numerics_class: str, layers: int, experts: int) -> None:
        self.numerics_class = numerics_class
        self._experts = experts
        self._digest_E: DigestArray = np.zeros(layers * experts, np.uint64)
        self._unstored: set[int] = set()  # layers
        self._stored_E = np.zeros(layers * experts, np.bool_)  # known from Redis alone

    def take_stored(self, fields: Mapping[int, bytes]) -> None:
        """Takes what Redis has; what does not fit the model is left out."""
        layers = len(self._digest_E) // self._experts
        for layer, data in fields.items():
            if 0 <= layer < layers and len(data) == 8 * self._experts:
                digest_F = self._digest_E[layer * self._experts : (layer + 1) * self._experts]
                stored_F = np.frombuffer(data, "<u8")
                stored_E = slice(layer * self._experts, (layer + 1) * self._experts)
                self._stored_E[stored_E] = (digest_F == UNKNOWN) & (stored_F != UNKNOWN)
                digest_F[:] = np.where(digest_F == UNKNOWN, stored_F, digest_F)

    def to_store(self) -> dict[int, bytes]:
        """Returns the layers that were learnt since the last call."""
        digest_LF = self._digest_E.reshape(-1, self._experts)
        fields = {layer: digest_LF[layer].astype("<u8").tobytes() for layer in self._unstored}
        self._unstored = set()
        return fields

    def unknown(self, item_N: Items) -> Items:
        """Returns those of the experts whose digest is not known."""
        unknown_N: Items = item_N[self._digest_E[item_N] == UNKNOWN]
        return unknown_N

    def difference(self, item_N: Items, given_N: DigestArray) -> Difference | None:
        """Returns the first expert whose digest is another than the known one."""
        known_N = self._digest_E[item_N]
        wrong = np.flatnonzero((known_N != UNKNOWN) & (known_N != given_N))
        if not len(wrong):
            return None
        first = wrong[0]
        item = int(item_N[first])
        return Difference(item, int(given_N[first]), int(known_N[first]), bool(self._stored_E[item]))

    def learn(self, item_N: Items, given_N: DigestArray) -> None:
        """Takes the digests of experts that have none yet; those that Redis had are confirmed."""
        self._stored_E[item_N] = False
        new = self._digest_E[item_N] == UNKNOWN
        self._digest_E[item_N[new]] = given_N[new]
        self._unstored |= set((item_N[new] // self._experts).tolist())
