"""A rank reads its own rows alone, and a model that cannot be sharded is named."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from structlog.testing import capture_logs
from support.quantized_checkpoint import to_fp8
from support.tiny_checkpoint import PLAIN, UNEVEN, make_checkpoint

from services.attention_worker.loading import open_model
from services.attention_worker.model.shard import Shard
from services.attention_worker.settings import AttentionSettings
from services.attention_worker.tensor_parallel.group import RankGroup
from services.attention_worker.tensor_parallel.rank0 import shared_ranks
from services.checkpoint.reader import Checkpoint
from services.checkpoint.tensors import attention_tensors
from services.process.settings import InvalidSetting

SHARDED = (
    "q_b_proj.weight",
    "kv_b_proj.weight",
    "o_proj.weight",
    "gate_proj.weight",
    "up_proj.weight",
    "down_proj.weight",
    "lm_head.weight",
)


def bytes_read(path: Path, shard: Shard) -> int:
    opened = open_model(AttentionSettings(model=path, tp=shard.size))
    with capture_logs() as logs:
        opened.load(shared_ranks(opened.config, RankGroup(shard, path, torch.device("cpu"))))
    (read,) = (entry["bytes"] for entry in logs if entry["event"] == "weights are read")
    return int(read)


def sizes(path: Path) -> tuple[int, int]:
    """Returns (bytes that every rank reads, bytes that are sharded) of the attention worker's tensors."""
    checkpoint, common, sharded = Checkpoint.open(path), 0, 0
    for name, shape in attention_tensors(checkpoint.config):
        count = torch.Size(shape).numel() * (4 if "mlp.router" in name else 2)
        if name.endswith(SHARDED):
            sharded += count
        else:
            common += count
    return common, sharded


def test_each_rank_reads_its_half(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, PLAIN, dtype=torch.bfloat16)
    common, sharded = sizes(path)
    assert bytes_read(path, Shard()) == common + sharded
    assert [bytes_read(path, Shard(rank, 2)) for rank in (0, 1)] == [common + sharded // 2] * 2


def test_uneven_shards_are_the_whole(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, UNEVEN, dtype=torch.bfloat16)
    common, sharded = sizes(path)
    read = [bytes_read(path, Shard(rank, 3)) for rank in range(3)]
    assert sum(read) == 3 * common + sharded
    assert read[2] < read[0] == read[1], "101 inner rows are split into 34, 34 and 33"


@pytest.mark.parametrize("fp8", [False, True])
def test_rows_are_those_of_the_whole_tensor(tmp_path: Path, fp8: bool) -> None:
    path = make_checkpoint(tmp_path / "wide", PLAIN, dtype=torch.bfloat16, ffn_hidden_size=300)
    if fp8:
        path = to_fp8(path, lambda name: name.endswith("gate_proj.weight"))
    checkpoint, name = Checkpoint.open(path), "model.layers.0.mlps.0.gate_proj.weight"
    whole = checkpoint.tensor(name, torch.bfloat16)
    for start, stop in pairwise([0, 1, 100, 128, 130, 257, 300]):
        part = checkpoint.tensor(name, torch.bfloat16, rows=range(start, stop))
        assert torch.equal(part, whole[start:stop])
        assert part.is_contiguous()


@pytest.mark.parametrize("count", [1, 5, 6, 7, 101])
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_every_row_has_one_rank(count: int, size: int) -> None:
    rows = [row for rank in range(size) for row in Shard(rank, size).rows(count)]
    assert rows == list(range(count))


def test_a_model_that_cannot_be_sharded_is_an_invalid_setting(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path)
    with pytest.raises(InvalidSetting, match=r"CARACAL_TP is 3: it must divide the model's 4 attention heads"):
        open_model(AttentionSettings(model=path, tp=3))
    with pytest.raises(InvalidSetting, match="CARACAL_TP is 0: must be at least 1"):
        AttentionSettings.from_env({"CARACAL_MODEL": str(path), "CARACAL_TP": "0"})
    with pytest.raises(InvalidSetting, match="CARACAL_TP is 'two': not a whole number"):
        AttentionSettings.from_env({"CARACAL_MODEL": str(path), "CARACAL_TP": "two"})
