"""`python -m bench.corruption.damaged_attention`: an attention worker whose weights or pages change in memory."""

from __future__ import annotations

from pathlib import Path

from bench.corruption.damage import ONCE, PAGES, begin, flicker, flip, the_only
from services.attention_worker.__main__ import main
from services.attention_worker.worker import AttentionWorker

LAYER = 0, 2  # the second one: the first part is the embedding


def damage(kind: str, when: Path) -> None:
    worker = the_only(AttentionWorker)
    region = worker._regions[LAYER]
    if kind == ONCE:
        flip(region.tensors[0])
        when.write_text(region.name)
    elif kind == PAGES:
        cache = worker._engine.cache
        named = list(cache.pages._page.values())
        for page in named:
            flip(cache.tensors[0][page])
        when.unlink()
        when.with_suffix(".done").write_text(str(len(named)))
    else:
        flicker(lambda: [region.tensors[0]], when)


if __name__ == "__main__":
    begin(damage)
    main()
