"""Shares of the kinds of lessons in a stage's dialogues."""

from __future__ import annotations

from dataclasses import asdict, dataclass

KINDS = ("arithmetic", "counting", "conversion", "memory", "conversation", "tools", "no_tool", "agent")


@dataclass(frozen=True)
class Mixture:
    """How often a round is of each kind, relative to one another; `agent` is a whole dialogue, and counts as one round.

    Raises ValueError unless all are 0 or more and one is more.
    """

    arithmetic: float = 1.0
    counting: float = 1.0
    conversion: float = 1.0
    memory: float = 1.0
    conversation: float = 1.0
    tools: float = 1.0
    no_tool: float = 1.0
    agent: float = 1.0

    def __post_init__(self) -> None:
        for kind, share in asdict(self).items():
            if not 0 <= share < float("inf"):
                raise ValueError(f"mixture: {kind} is {share}, must be 0 or more")
        if not sum(self.shares):
            raise ValueError("mixture: no kind has a share")

    @property
    def shares(self) -> tuple[float, ...]:
        """Shares in the order of `KINDS`; they add up to 1."""
        given: list[float] = [getattr(self, kind) for kind in KINDS]
        total = sum(given) or 1.0
        return tuple(share / total for share in given)

    @classmethod
    def of(cls, shares: dict[str, float]) -> Mixture:
        """Returns the mixture with these shares, and 0 for kinds that are not named. Raises ValueError for others."""
        if unknown := sorted(set(shares) - set(KINDS)):
            raise ValueError(f"mixture: no kind {', '.join(unknown)}; there are {', '.join(KINDS)}")
        return cls(**dict.fromkeys(KINDS, 0.0) | shares)
