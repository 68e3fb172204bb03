"""`python -m bench.corruption.damaged_expert`: an expert worker whose weights change in memory."""

from __future__ import annotations

from pathlib import Path

from bench.corruption.damage import ONCE, begin, flicker, flip, the_only
from services.expert_worker.__main__ import main
from services.expert_worker.experts import Experts


def damage(kind: str, when: Path) -> None:
    experts = the_only(Experts)
    if kind == ONCE:
        region = next(iter(list(experts.regions.values())))
        flip(region.tensors[-1])
        when.write_text(region.name)
    else:
        flicker(lambda: [region.tensors[-1] for region in list(experts.regions.values())], when)


if __name__ == "__main__":
    begin(damage)
    main()
