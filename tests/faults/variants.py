"""The clusters that schedules run on, one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

BLOCK = 25  # schedules on one cluster


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """`link`: by which rows travel to expert workers. `replicas` of each expert. `cluster_key`: what signs calls and
    records; empty = nothing does. `also`: kinds of faults that each schedule has besides."""

    name: str
    link: str
    replicas: int = 2
    cluster_key: str = ""
    also: tuple[str, ...] = ()

    @property
    def environment(self) -> Mapping[str, str]:
        """Of all processes."""
        key = {"CARACAL_CLUSTER_KEY": self.cluster_key} if self.cluster_key else {}
        return {"CARACAL_REPLICAS": str(self.replicas)} | key


NATIVE = Variant(name="native", link="native")
GRPC = Variant(name="gRPC, cluster key", link="grpc", cluster_key="a key of these tests alone")
LONE = Variant(name="one replica, flips", link="native", replicas=1, also=("bits flipped",))
VARIANTS = (NATIVE, GRPC, LONE)


def variant_of(seed: int) -> Variant:
    """That of a schedule."""
    return VARIANTS[seed // BLOCK % len(VARIANTS)]
