"""The KV cache is as large as the free memory allows, and no larger."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.tiny_checkpoint import UNEVEN, make_checkpoint

from services.attention_worker.engine.kv_cache import KvCache
from services.attention_worker.engine.memory import (
    LEAST_TOKENS,
    default_pages,
    page_bytes,
    pages_beside_others,
    pages_that_fit,
)
from services.attention_worker.loading import open_model
from services.attention_worker.settings import AttentionSettings
from services.process.memory import host_free
from services.process.settings import InvalidSetting


def test_a_page_takes_the_bytes_it_is_counted_as(tmp_path: Path) -> None:
    opened = open_model(AttentionSettings(model=make_checkpoint(tmp_path / "model", UNEVEN), page_size=32, kv_pages=7))
    loaded = opened.load()
    cache = KvCache(loaded.model, loaded.limits.num_pages, loaded.limits.page_size, 4, loaded.limits.max_model_len)
    assert cache.bytes == 7 * page_bytes(opened.config, opened.dtype, 32)


def test_the_real_model_on_a_gpu_of_80_gib() -> None:
    """Its 56 attention sublayers cache 512 + 64 values per token each: 64 512 bytes per token in bfloat16."""
    one, free, total = 64 * 64_512, 40 * 2**30, 80 * 2**30
    pages = pages_that_fit(free, total, one)
    assert pages * one <= free - total // 10 < (pages + 1) * one
    assert pages_that_fit(total // 20, total, one) == 0


def test_sizes_follow_the_pages(tmp_path: Path) -> None:
    model = make_checkpoint(tmp_path / "model")
    opened = open_model(AttentionSettings(model=model))
    limits = opened.load().limits
    assert (limits.num_pages, limits.max_model_len) == (LEAST_TOKENS // 64, opened.config.max_position_embeddings)
    assert opened.limits(2).max_model_len == 128
    with pytest.raises(InvalidSetting, match="CARACAL_KV_PAGES: the weights leave no memory"):
        opened.limits(0)


def test_a_long_model_gets_pages_for_its_whole_context(tmp_path: Path) -> None:
    model = make_checkpoint(tmp_path / "model", max_position_embeddings=131_072)
    limits = open_model(AttentionSettings(model=model)).load().limits
    assert (limits.num_pages, limits.max_model_len) == (2048, 131_072)
    shorter = open_model(AttentionSettings(model=model, max_model_len=65_536)).load().limits
    assert (shorter.num_pages, shorter.max_model_len) == (1024, 65_536)


def test_beside_others_pages_take_a_quarter_of_the_free_memory_at_most() -> None:
    longest, one = 131_072, 64 * 1000
    wanted = longest // 64
    assert pages_beside_others(longest, 64, 4 * wanted * one, one) == wanted
    assert pages_beside_others(longest, 64, 4 * wanted * one - 4, one) == wanted - 1
    assert pages_beside_others(longest, 64, 2 * one, one) == 0
    assert pages_beside_others(100, 64, 10**12, one) * 64 == LEAST_TOKENS


def test_a_cpu_keeps_to_its_share_and_so_does_a_shared_gpu(tmp_path: Path) -> None:
    """A context whose cache would be twice the memory of this machine."""
    opened = open_model(AttentionSettings(model=make_checkpoint(tmp_path / "model")))
    free, one = host_free(), page_bytes(opened.config, opened.dtype, 64)
    longest = 2 * free // one * 64
    for shared in (False, True):
        pages = default_pages(torch.device("cpu"), one, 64, longest, shared)
        assert 0.2 * free < pages * one < 0.3 * free


@pytest.mark.parametrize(("pages", "page_size"), [(10**20, 64), (10**9, 64), (1, 16 * 10**12)])
def test_more_pages_than_memory_is_an_invalid_setting(tmp_path: Path, pages: int, page_size: int) -> None:
    settings = AttentionSettings(model=make_checkpoint(tmp_path / "model"), kv_pages=pages, page_size=page_size)
    with pytest.raises(
        InvalidSetting, match=r"CARACAL_KV_PAGES: \d+ pages of CARACAL_PAGE_SIZE \d+ take [\d.]+ GiB, [\d.]+ G"
    ):
        open_model(settings).load()


def test_host_memory_becomes_pages_and_must_be_free(tmp_path: Path) -> None:
    model = make_checkpoint(tmp_path / "model")
    settings = AttentionSettings(model=model, kv_host_gb=0.01)
    limits = open_model(settings).load().limits
    assert limits.host_pages == 10**7 // page_bytes(open_model(settings).config, torch.float32, 64) > 0
    with pytest.raises(InvalidSetting, match=r"CARACAL_KV_HOST_GB: 1e\+06 GB of host memory, [\d.]+ are free"):
        open_model(AttentionSettings(model=model, kv_host_gb=1e6)).load()


def test_free_memory_is_less_than_all() -> None:
    with open("/proc/meminfo", encoding="ascii") as lines:
        total = int(next(lines).split()[1]) * 1024
    assert 0 < host_free() < total


def test_a_gpu_that_is_not_there_is_an_error_before_anything_is_read(tmp_path: Path) -> None:
    if torch.cuda.device_count() > 5:
        pytest.skip("this machine has more than 5 GPUs")
    with pytest.raises(InvalidSetting, match="CARACAL_DEVICE is 'cuda:4' and rank 1 takes number 5: this machine has"):
        open_model(AttentionSettings(model=tmp_path / "nothing", device="cuda:4"), rank=1)
