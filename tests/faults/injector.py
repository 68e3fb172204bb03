"""What a fault is to the suite. Each proves that it took effect, and heals."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from faults.cluster import FaultyCluster
from faults.network import REDIS, role_of
from faults.schedule import Lasting

WORKERS: tuple[str, ...] = ("attention", "expert")


class Injector(ABC):
    """A fault at a target: a node's name, several joined by `+`, or Redis. `seed`: of what it chooses itself.

    `verify` is asked after `inject` and before `heal`, while there is traffic. `heal` is called even if `inject` has
    failed half-way.
    """

    kind: ClassVar[str]
    roles: ClassVar[tuple[str, ...]]  # whose nodes are targets
    lasting: ClassVar[Lasting] = Lasting.SHORT
    seen_s = 5.0  # that it may take to show

    def __init__(self, cluster: FaultyCluster, target: str, seed: int = 0) -> None:
        self.cluster, self.target, self.seed = cluster, target, seed
        self.nodes = target.split("+")

    @classmethod
    def targets(cls, names: Sequence[str], own: str) -> list[str]:
        """Of the cluster's nodes. `own`: the router that clients over gRPC ask, which cannot go on at another one."""
        return [name for name in (*names, REDIS) if role_of(name) in cls.roles and name != own]

    @abstractmethod
    def inject(self) -> None: ...

    @abstractmethod
    def verify(self) -> bool:
        """Whether the fault is there."""

    @abstractmethod
    def heal(self) -> None: ...


def whole_roles(names: Sequence[str], roles: Sequence[str]) -> list[str]:
    """The targets that are all nodes of one of the roles."""
    return ["+".join(name for name in names if role_of(name) == role) for role in roles]
