"""Every published variant, in small: opened untouched, equal to other implementations, the same bits over every link.

Legend: T tokens, V vocabulary.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from support.expert_workers import LINKS, MAX_TOKENS, connecting, load_everything, open_dispatcher, place, workers
from support.models_page import TOLERANCE, markdown, measured, our_logits, refused_with, sequence
from support.paged import Paged
from support.published import REFUSED, SERVED, Variant, build

from services.attention_worker.model.model import load_model
from services.checkpoint.reader import Checkpoint

REPO = Path(__file__).resolve().parents[2]
served = pytest.mark.parametrize("variant", SERVED, ids=lambda variant: variant.name)


def test_served_variants_agree_with_their_oracles_as_the_table_says(tmp_path: Path) -> None:
    """But for the digits of the differences, which depend on the machine."""

    def masked(text: str) -> str:
        return re.sub(r"\de-\d\d", "?", text)

    found = measured(tmp_path)
    assert {name: tuple(oracles) for name, oracles in found.items()} == {each.name: each.oracles for each in SERVED}
    for name, oracles in found.items():
        assert max(oracles.values()) < TOLERANCE, (name, oracles)
    assert masked((REPO / "docs" / "models.md").read_text()) == masked(markdown(found))


@served
def test_a_served_variant_has_the_same_bits_over_every_link(variant: Variant, tmp_path: Path) -> None:
    """In chunks, with experts on two workers, as in one step with experts in this process."""
    checkpoint = Checkpoint.open(build(variant, tmp_path))
    ids = sequence(variant, ends=True)[: 600 if checkpoint.config.streaming else 200]
    expected_TV = our_logits(checkpoint, ids)
    model = load_model(checkpoint, torch.float32, lambda done, total: None)
    with workers(checkpoint, torch.float32, 2) as running:
        for worker in running:
            load_everything(worker.experts)
        table = place(1, checkpoint, [worker.endpoint for worker in running], lambda layer, expert: [expert % 2])
        for link in LINKS:
            with open_dispatcher(checkpoint, connecting(link, checkpoint, torch.float32)) as dispatcher:
                dispatcher.apply(table)
                paged = Paged(model, dispatcher, capacity=len(ids))
                chunks = [ids[at : at + MAX_TOKENS - 3] for at in range(0, len(ids), MAX_TOKENS - 3)]
                logits_TV = torch.cat([paged.feed({0: chunk})[0] for chunk in chunks])
            assert torch.equal(logits_TV, expected_TV), link


@pytest.mark.parametrize("variant", REFUSED, ids=lambda variant: variant.name)
def test_a_refused_variant_says_what_is_missing(variant: Variant, tmp_path: Path) -> None:
    assert refused_with(variant, tmp_path) == f"config.json: {variant.line}"
