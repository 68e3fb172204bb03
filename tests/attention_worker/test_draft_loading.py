"""Which checkpoints draft, and how much: the tensors of multi-token prediction, whole or not, and the setting."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.broken_checkpoint import edit_tensor
from support.published import SERVED, Variant, build
from support.tiny_checkpoint import make_checkpoint

from services.attention_worker.loading import open_model
from services.attention_worker.model.model import load_model
from services.attention_worker.settings import AttentionSettings
from services.checkpoint.reader import Checkpoint
from services.process.settings import InvalidSetting

JOIN = "model.mtp.layers.0.eh_proj.weight"


def test_a_checkpoint_with_the_tensors_drafts_one_token_unless_another_number_is_set(tmp_path: Path) -> None:
    with_drafts, without = (make_checkpoint(tmp_path / str(drafts), drafts=drafts) for drafts in (True, False))
    for given, expected in ((-1, 1), (0, 0), (1, 1), (3, 3)):
        opened = open_model(AttentionSettings(model=with_drafts, draft=given, kv_pages=3))
        loaded = opened.load()
        assert (opened.drafts, loaded.limits.drafts, loaded.model.drafts) == (expected, expected, expected > 0)
        assert len(loaded.model.new_cache(3, 64)) == 2 * opened.config.num_layers + (expected > 0)
    assert open_model(AttentionSettings(model=without)).drafts == 0
    with pytest.raises(InvalidSetting) as caught:
        open_model(AttentionSettings(model=without, draft=1))
    assert str(caught.value) == "CARACAL_DRAFT is 1: the checkpoint has no model.mtp.layers.0.* tensors"


def test_tensors_that_do_not_fit_switch_drafts_off_and_are_named(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, drafts=True)
    edit_tensor(path, JOIN, lambda weight: weight[:, :7].contiguous())
    assert open_model(AttentionSettings(model=path)).drafts == 0
    with pytest.raises(InvalidSetting, match=rf"CARACAL_DRAFT is 2: .*safetensors: {JOIN}: shape \[64, 7\], config"):
        open_model(AttentionSettings(model=path, draft=2))


def test_drafts_are_no_part_of_what_decides_bits(tmp_path: Path) -> None:
    paths = [make_checkpoint(tmp_path / str(drafts), drafts=drafts) for drafts in (True, False)]
    edit_tensor(paths[0], JOIN, lambda weight: weight + 1)
    one, other = (Checkpoint.open(path) for path in paths)
    assert one.names() != other.names()
    assert one.digest == other.digest


@pytest.mark.parametrize("variant", SERVED, ids=lambda variant: variant.name)
def test_the_published_variants_draft(variant: Variant, tmp_path: Path) -> None:
    """But for those whose repository has no such tensors."""
    checkpoint = Checkpoint.open(build(variant, tmp_path))
    has = any(name.startswith("model.mtp.layers.0.") for name in checkpoint.names())
    assert (checkpoint.no_drafts == "") == has
    if has:
        assert load_model(checkpoint, torch.bfloat16, lambda done, total: None, drafts=True).drafts
