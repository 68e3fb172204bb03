"""Checksums of weights: every byte counts, parts join to the whole, what was kept beside a checkpoint is compared."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from random import Random

import pytest
import torch
from caracal_kernels import crc32, joined_crc32
from hypothesis import given
from hypothesis import strategies as st
from support.flipped_bits import flip, place_of
from support.quantized_checkpoint import to_fp8
from support.tiny_checkpoint import NGRAM, PLAIN, UNEVEN, make_checkpoint

from services.attention_worker.loading import Opened, open_model
from services.attention_worker.model.shard import Shard
from services.attention_worker.settings import AttentionSettings
from services.attention_worker.tensor_parallel.group import RankGroup
from services.attention_worker.tensor_parallel.rank0 import shared_ranks
from services.attention_worker.tensor_parallel.ready_frame import ready_frame, unpack_ready
from services.checkpoint.checksum_file import NAME
from services.checkpoint.errors import CheckpointError
from services.checkpoint.reader import Checkpoint, load_expert
from services.expert_worker.experts import Experts
from services.membership.agreed_weights import damage

BF16 = torch.bfloat16


@given(st.lists(st.binary(max_size=600), max_size=5))
def test_checksums_are_zlib_s_and_join(parts: list[bytes]) -> None:
    together = joined = 0
    for part in parts:
        together = crc32(part, together)
        joined = joined_crc32(joined, crc32(part), len(part))
    assert together == joined == zlib.crc32(b"".join(parts))


def opened(path: Path, tp: int = 1) -> Opened:
    return open_model(AttentionSettings(model=path, tp=tp, kv_pages=4))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("original"), PLAIN, dtype=BF16)


def test_one_flipped_bit_anywhere_gives_an_attention_worker_another_class(tmp_path: Path, original: Path) -> None:
    good = opened(original)
    known = good.classified(good.load())
    assert known.weights is not None
    assert known.numerics.name.startswith(known.numerics.table_name + "-")
    path = make_checkpoint(tmp_path / "copy", PLAIN, dtype=BF16)
    same = opened(path)
    assert same.classified(same.load()).numerics == known.numerics, "an equal copy is of the same class"
    random = Random(0)
    for name in random.sample(list(known.weights.names), 6):
        byte = random.randrange(1 << 20)
        file = flip(path, name, byte)
        damaged = opened(path)
        found = damaged.classified(damaged.load())
        assert found.numerics.attention != known.numerics.attention
        assert found.weights is not None
        text = damage(found.weights.names, found.weights.file_of, found.weights.checksums, known.weights.checksums)
        assert text.startswith(f"{file}: {name}: CRC-32 ")
        assert text.count("CRC-32") == 1, "no other tensor is named"
        flip(path, name, byte)


def test_a_flipped_bit_of_an_expert_changes_its_digest_and_no_other_s(tmp_path: Path, original: Path) -> None:
    path = make_checkpoint(tmp_path / "copy", PLAIN, dtype=BF16)
    name = "model.layers.1.mlp.experts.3.up_proj.weight"
    flip(path, name, 1001)
    good, bad = (Experts(Checkpoint.open(each), BF16) for each in (original, path))
    for expert in (2, 3):
        assert (good.load(1, expert) == bad.load(1, expert)) == (expert != 3)
    differing = [one[1] for one, other in zip(bad.tensors(1, 3), good.tensors(1, 3), strict=True) if one[2] != other[2]]
    assert differing == [name]


@pytest.mark.parametrize("config", [PLAIN, UNEVEN], ids=["even", "uneven"])
@pytest.mark.parametrize("fp8", [False, True], ids=["bf16", "fp8"])
def test_ranks_together_have_the_checksums_of_one(tmp_path: Path, config: dict[str, object], fp8: bool) -> None:
    path = make_checkpoint(tmp_path / "model", config, dtype=BF16)
    if fp8:
        to_fp8(path)
    alone = opened(path)
    alone.load()
    names = alone.checkpoint.attention_names()
    size = 2 if config is PLAIN else 3
    ranks = [opened(path, size) for _ in range(size)]
    for rank, one in enumerate(ranks):
        one.load(shared_ranks(one.config, RankGroup(Shard(rank, size), tmp_path, torch.device("cpu"))))
    for one in ranks[1:]:
        _, read = unpack_ready(ready_frame("class", one.checkpoint.checksums))
        ranks[0].checkpoint.checksums.add(*read)
    expected = [alone.checkpoint.checksum(name) for name in names]
    assert [ranks[0].checkpoint.checksum(name) for name in names] == expected
    whole = [zlib.crc32(file.read_bytes()[at : at + size]) for file, at, size in (place_of(path, n) for n in names)]
    assert expected == whole


def test_every_byte_of_n_gram_tables_counts(tmp_path: Path) -> None:
    """Of a copy that another process has made as well: all of what is read has a checksum, and it is the file's."""
    path, name = make_checkpoint(tmp_path / "model", NGRAM, dtype=BF16), "model.ngram_embeddings.embedders.1.weight"
    file, at, size = place_of(path, name)
    whole = zlib.crc32(file.read_bytes()[at : at + size])
    maker, taker, other = (Checkpoint.open(path) for _ in range(3))
    assert name in maker.attention_names()
    made, taken = maker.ngram_tables(tmp_path), taker.ngram_tables(tmp_path)
    assert (made.made_here, taken.made_here) == (True, False)
    assert [one.checksum(name) for one in (maker, taker, other)] == [whole] * 3
    assert maker.keep_checksums()
    rows, width = maker.shape(name)
    assert rows >= 128, "not every row is compared one by one"
    first = 2 * torch.Size(maker.shape(name.replace("1", "0"))).numel()
    at_row_1 = -(-first // 4096) * 4096 + 2 * width
    with made.path.open("r+b") as copy:
        copy.seek(at_row_1)
        byte = copy.read(1)[0]
        copy.seek(at_row_1)
        copy.write(bytes([byte ^ 8]))
    with pytest.raises(CheckpointError, match=f"{name}: its bytes have .* or its copy {made.path}, is damaged"):
        Checkpoint.open(path).ngram_tables(tmp_path)
    made.close()
    taken.close()
    flip(path, name, size // 2, keep_time=True)
    with pytest.raises(CheckpointError, match=rf"{name}: its bytes have the CRC-32 .* is damaged"):
        Checkpoint.open(path).ngram_tables(tmp_path)


def test_what_was_read_is_kept_and_compared(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "model", PLAIN, dtype=BF16)
    name = "model.layers.0.mlp.experts.5.down_proj.weight"
    first = Checkpoint.open(path)
    load_expert(first, 0, 5, BF16)
    assert first.keep_checksums()
    before = (path / NAME).stat()
    again = Checkpoint.open(path)
    load_expert(again, 0, 5, BF16)
    assert again.keep_checksums()
    assert (path / NAME).stat().st_mtime_ns == before.st_mtime_ns, "it is written once"
    load_expert(again, 0, 6, BF16)
    assert again.keep_checksums()
    kept = json.loads((path / NAME).read_text())["files"]
    assert sorted(one.split(".")[5] for file in kept.values() for one in file[2]) == ["5"] * 3 + ["6"] * 3
    file = flip(path, name, 777, keep_time=True)
    with pytest.raises(CheckpointError, match=rf"{file}: {name}: its bytes have the CRC-32 .* is damaged"):
        load_expert(Checkpoint.open(path), 0, 5, BF16)
    os.utime(path / file)
    changed = Checkpoint.open(path)
    load_expert(changed, 0, 5, BF16)  # another file now: what was kept of the old one says nothing


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"format": 2, "files": {}}',
        '{"format": 1}',
        '{"format": 1, "files": {"model.safetensors": 3}}',
        '{"format": 1, "files": {"model.safetensors": [1, 2, {"a": -1}, {}]}}',
    ],
)
def test_a_file_of_checksums_that_is_none_is_ignored(tmp_path: Path, text: str) -> None:
    path = make_checkpoint(tmp_path / "model", PLAIN, dtype=BF16)
    (path / NAME).write_text(text)
    checkpoint = Checkpoint.open(path)
    load_expert(checkpoint, 0, 0, BF16)
    assert checkpoint.keep_checksums()
    assert json.loads((path / NAME).read_text())["format"] == 1


def test_a_folder_that_cannot_be_written_to_is_served(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "model", PLAIN, dtype=BF16)
    (path / NAME).mkdir()  # nothing replaces a folder, whoever runs the test
    checkpoint = Checkpoint.open(path)
    load_expert(checkpoint, 0, 0, BF16)
    assert not checkpoint.keep_checksums()
    assert sorted(one.name for one in path.iterdir() if one.name.startswith(".")) == []
