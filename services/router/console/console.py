"""What the console's routes need of their router."""

from __future__ import annotations

from dataclasses import dataclass, field

from services.membership.redis import Membership
from services.router.console.observer import Observer
from services.router.console.steering import Steering


@dataclass(frozen=True, slots=True)
class Console:
    """One router's console. `observer.watch` is to run while the router does."""

    membership: Membership
    observer: Observer
    steering: Steering = field(default_factory=Steering)

    @classmethod
    def of(cls, membership: Membership, router: str, token: str = "", command: str = "") -> Console:
        return cls(membership, Observer(membership, router), Steering(token, command))
