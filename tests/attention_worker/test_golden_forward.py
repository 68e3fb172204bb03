"""The golden forward: the same bits from the same weights, and others from a weight that changed after it was read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.tiny_checkpoint import PLAIN, UNEVEN, make_checkpoint

from services.attention_worker.golden import golden_forward
from services.attention_worker.loading import open_model
from services.attention_worker.settings import AttentionSettings


@pytest.mark.parametrize("config", [PLAIN, UNEVEN], ids=["plain", "uneven"])
def test_it_depends_on_the_weights_alone(tmp_path: Path, config: dict[str, object]) -> None:
    path = make_checkpoint(tmp_path, config, dtype=torch.bfloat16)
    found = set()
    for page_size in (16, 64):
        opened = open_model(AttentionSettings(model=path, page_size=page_size, kv_pages=2))
        found |= {golden_forward(opened.load().model, opened.config, page_size) for _ in range(2)}
    assert len(found) == 1


def test_a_bit_that_flips_in_memory_changes_it(tmp_path: Path) -> None:
    opened = open_model(AttentionSettings(model=make_checkpoint(tmp_path, PLAIN, dtype=torch.bfloat16), kv_pages=2))
    model = opened.load().model
    before = golden_forward(model, opened.config, 64)
    norm_D = model._norm_D
    norm_D.view(torch.int16)[5] ^= 1 << 6
    assert golden_forward(model, opened.config, 64) != before
    norm_D.view(torch.int16)[5] ^= 1 << 6
    assert golden_forward(model, opened.config, 64) == before
