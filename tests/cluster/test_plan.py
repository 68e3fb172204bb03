"""`caracal plan` against the published sizes of LongCat-Flash."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from support.tiny_checkpoint import NGRAM, UNEVEN, make_checkpoint

from services.attention_worker.engine.kv_cache import KvCache
from services.attention_worker.loading import open_model
from services.attention_worker.settings import AttentionSettings
from services.checkpoint.reader import Checkpoint
from services.checkpoint.tensors import attention_tensors, ngram_tables
from services.cli.plan import FLASH_CHAT, FLASH_LITE, BadPlan, Sizes, load_sizes, make_plan

SIZES = Sizes.of("flash", FLASH_CHAT)


def test_parameters_are_those_of_the_published_model() -> None:
    assert SIZES.expert_params == 37_748_736
    assert SIZES.experts * SIZES.expert_params == 541_165_879_296
    total = SIZES.experts * SIZES.expert_params + SIZES.attention_params
    assert total == 559_054_361_600 + 1_610_618_880
    assert SIZES.cache_values * 2 == 64_512  # bytes per token in bf16


def test_drafts_take_a_block_and_a_cache_more() -> None:
    """One dense MLA block of the model's sizes, its five norms and eh_proj; it stays wide beside fp8 weights."""
    drafting = Sizes.of("flash", FLASH_CHAT, drafts=True)
    mla = (SIZES.attention_params - 2 * 131072 * 6144 - 6144) // 28 - 768 * 6145 - 4 * 6144 - 6 * 6144 * 12288
    norms, join, mlp = 5 * 6144, 2 * 6144**2, 3 * 6144 * 12288
    assert drafting.draft_params == mla // 2 + norms + join + mlp
    assert drafting.cache_values * 28 * 2 == SIZES.cache_values * 57
    for weights, size in (("bf16", 2), ("fp8", 2), ("fp32", 4)):
        more = (
            make_plan(drafting, weights, 80, 141).attention_bytes - make_plan(SIZES, weights, 80, 141).attention_bytes
        )
        assert more == size * drafting.draft_params


def test_flash_lite_has_the_parameters_of_the_published_model() -> None:
    """68.5 B in all, 31.4 B of them in the n-gram tables (arXiv 2601.21204)."""
    lite = Sizes.of("lite", FLASH_LITE)
    assert round(lite.table_values / 1e9, 1) == 31.4
    total = lite.experts * lite.expert_params + lite.attention_params + lite.table_values
    assert total // 10**8 == 685


def test_what_a_worker_of_a_small_model_reads_is_what_is_planned(tmp_path: Path) -> None:
    for name, preset in (("uneven", UNEVEN), ("ngram", NGRAM | {"tie_word_embeddings": True})):
        config = Checkpoint.open(make_checkpoint(tmp_path / name, preset)).config
        sizes = load_sizes(str(tmp_path / name))
        # One bias per gate output is fp32 whatever the rest is; the plan counts it as a parameter.
        assert sizes.attention_params == sum(math.prod(shape) for _, shape in attention_tensors(config))
        assert sizes.table_values == sum(math.prod(shape) for _, shape in ngram_tables(config))


@pytest.mark.parametrize(("weights", "per_worker", "workers"), [("bf16", 1059, 14), ("fp8", 2119, 7)])
def test_workers_of_80_gb(weights: str, per_worker: int, workers: int) -> None:
    plan = make_plan(SIZES, weights, 80, 141)
    assert (plan.experts_per_worker, plan.expert_workers) == (per_worker, workers)


def test_the_rest_of_a_gpu_caches_tokens() -> None:
    plan = make_plan(SIZES, "bf16", 80, 141)
    assert plan.attention_bytes == 2 * SIZES.attention_params
    assert plan.cached_tokens == int((141e9 - plan.attention_bytes) // 64_512)
    assert make_plan(SIZES, "bf16", 80, 30).cached_tokens < 0


def test_the_cache_is_planned_in_the_bytes_that_it_takes(tmp_path: Path) -> None:
    opened = open_model(
        AttentionSettings(model=make_checkpoint(tmp_path / "model", UNEVEN), dtype="float32", kv_pages=3)
    )
    loaded = opened.load()
    cache = KvCache(loaded.model, 3, 64, 4, loaded.limits.max_model_len)
    plan = make_plan(load_sizes(str(tmp_path / "model")), "fp32", 80, 80)
    assert cache.bytes == 3 * 64 * plan.token_bytes
    path = make_checkpoint(tmp_path / "drafts", UNEVEN, drafts=True)
    drafting = open_model(AttentionSettings(model=path, dtype="float32", kv_pages=3)).load()
    assert (
        KvCache(drafting.model, 3, 64, 4, 512).bytes
        == 3 * 64 * make_plan(load_sizes(str(path)), "fp32", 80, 80).token_bytes
    )
    assert make_plan(SIZES, "bf16", 80, 141).token_bytes == make_plan(SIZES, "fp8", 80, 141).token_bytes == 64_512


def test_a_worker_too_small_for_one_expert_is_an_error() -> None:
    with pytest.raises(BadPlan, match="one expert in bf16 takes"):
        make_plan(SIZES, "bf16", 0.05, 80)


def test_an_unreadable_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BadPlan, match="nowhere"):
        load_sizes(str(tmp_path / "nowhere"))
