"""Bytes of weights and pages, beside what a worker really allocates: to the byte."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny_checkpoint import NGRAM, PLAIN, UNEVEN, make_checkpoint
from torch import Tensor

from services.attention_worker import settings as worker
from services.attention_worker.engine import memory as engine
from services.attention_worker.engine.kv_cache import KvCache
from services.attention_worker.loading import open_model
from services.attention_worker.model.ranks import ALONE, Ranks, SharedRanks
from services.attention_worker.model.shard import Shard
from services.attention_worker.settings import AttentionSettings
from services.checkpoint.config import ModelConfig
from services.cli.plan import KNOWN, Sizes, config_of
from services.cli.planning.models import find_shape, shape_of
from services.planner import memory as planner
from services.planner.memory import PAGE_TOKENS, on_device, table_bytes
from services.planner.serving import Serving
from services.planner.shape import Shape

DTYPES = {"float32": "fp32", "bfloat16": "bf16"}


class NoGroup:
    """Ranks that only load have nothing to gather."""

    def gather(self, part: Tensor, width: int) -> Tensor:
        raise NotImplementedError


def shape_at(path: Path) -> Shape:
    config, drafts, name = config_of(str(path))
    return shape_of(config, Sizes.of(name, config, drafts))


def tensors(part: Any) -> Iterator[Tensor]:
    """All weights in a part of a model, but for the table of positions."""
    if isinstance(part, Tensor):
        yield part
    elif is_dataclass(part):
        yield from tensors([getattr(part, each.name) for each in fields(part) if each.name != "cos_sin_MR"])
    elif isinstance(part, list | tuple):
        for each in part:
            yield from tensors(each)


def loaded_bytes(settings: AttentionSettings, ranks: Ranks) -> int:
    model = open_model(settings).load(ranks).model
    found = {each.data_ptr(): each for _, part in model.parts() for each in tensors(part)}
    return sum(each.nbytes for each in found.values())


def ranks_of(config: ModelConfig, size: int) -> Ranks:
    if size == 1:
        return ALONE
    width = config.num_attention_heads * config.v_head_dim
    return SharedRanks(
        Shard(0, size), NoGroup(), hidden=config.hidden_size, heads_width=width, inner=config.ffn_hidden_size,
        vocabulary=config.vocab_size,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("preset", "drafts", "tp"),
    [(UNEVEN, 0, 1), (PLAIN, 1, 1), (PLAIN, 0, 2), (PLAIN, 1, 4), (NGRAM, 0, 1), (NGRAM, 0, 2)],
    ids=["uneven", "drafts", "two ranks", "four ranks with drafts", "n-grams", "n-grams on two ranks"],
)
def test_weights_are_what_a_worker_loads(
    tmp_path: Path, dtype: str, preset: dict[str, Any], drafts: int, tp: int
) -> None:
    path = make_checkpoint(tmp_path / "model", preset, dtype=getattr(torch, dtype), drafts=drafts > 0)
    config = config_of(str(path))[0]
    settings = AttentionSettings(model=path, dtype=dtype, kv_pages=3, draft=drafts, tables_dir=tmp_path)
    serving = Serving(dense_dtype=DTYPES[dtype], drafts=drafts, tp=tp)
    planned = on_device(shape_at(path), serving, 1e9, held=0)
    assert planned.dense_bytes == loaded_bytes(settings, ranks_of(config, tp))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kv", ["", "fp8"])
@pytest.mark.parametrize("drafts", [0, 1])
def test_pages_are_what_a_worker_allocates(tmp_path: Path, dtype: str, kv: str, drafts: int) -> None:
    path = make_checkpoint(tmp_path / "model", UNEVEN, dtype=getattr(torch, dtype), drafts=drafts > 0)
    settings = AttentionSettings(model=path, dtype=dtype, kv_pages=3, draft=drafts, kv_dtype=kv)
    loaded = open_model(settings).load()
    serving = Serving(dense_dtype=DTYPES[dtype], kv_dtype=kv or DTYPES[dtype], drafts=drafts)
    planned = on_device(shape_at(path), serving, 1e9, held=0).page_bytes
    assert KvCache(loaded.model, 3, PAGE_TOKENS, 4, loaded.limits.max_model_len).bytes == 3 * planned


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("fp8", [False, True])
@pytest.mark.parametrize("tp", [1, 4])
def test_pages_of_the_published_models(name: str, fp8: bool, tp: int) -> None:
    """Every rank has all pages whole. A latent in fp8 has 512 codes, four scales, and 64 values in bf16."""
    serving = Serving(kv_dtype="fp8" if fp8 else "bf16", drafts=1, tp=tp)
    one = engine.page_bytes(KNOWN[name][1], torch.bfloat16, PAGE_TOKENS, fp8=fp8, drafts=True)
    assert on_device(find_shape(name), serving, 1e12, 0).page_bytes == one
    assert find_shape(name).attention.cached_bytes("fp8") == 656


def test_tables_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "model", NGRAM, dtype=torch.bfloat16)
    shape = shape_at(path)
    assert table_bytes(shape, Serving(dense_dtype="bf16")) == 2 * shape.table_values > 0
    assert table_bytes(find_shape("flash-lite"), Serving()) / 2**30 == pytest.approx(58.5, abs=0.05)


def test_constants_are_the_workers() -> None:
    assert planner.GPU_PERCENT == engine.GPU_PERCENT
    assert planner.CPU_PERCENT == engine.BESIDE_OTHERS_PERCENT
    assert planner.LEAST_TOKENS == engine.LEAST_TOKENS
    assert planner.step_tokens("cpu") == worker.CPU_BATCH_TOKENS
    assert planner.step_tokens("cuda") == worker.GPU_BATCH_TOKENS
    assert AttentionSettings(model=Path()).page_size == PAGE_TOKENS


@pytest.mark.parametrize(("gb", "longest"), [(16, 131072), (16, 4096), (0.05, 131072)])
def test_a_worker_on_cpus_takes_the_pages_that_are_planned(gb: float, longest: int) -> None:
    shape = replace(find_shape("models/caracal-tiny"), longest=longest)
    serving = Serving(dense_dtype="bf16")
    planned = on_device(shape, serving, gb * 1e9, 0, platform="cpu")
    free = int(gb * 1e9 - planned.dense_bytes)
    assert planned.pages == engine.pages_beside_others(longest, PAGE_TOKENS, free, int(planned.page_bytes))
