"""Slices: a worker's folder has the blocks that it reads, each compared with the manifest, and gives the same bits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.fetched_files import FAST, bucket_environment, fetched, read
from support.tiny_checkpoint import PLAIN, make_checkpoint
from support.user_commands import command, new_user, one_line
from support.weight_stores import BUCKET, Bucket

from services.checkpoint.errors import CheckpointError
from services.checkpoint.reader import Checkpoint, load_expert
from services.weights.address import parse_address
from services.weights.errors import BadSource
from services.weights.fetch import Options
from services.weights.folder import Folder
from services.weights.manifest import BLOCK_BYTES, FILE
from services.weights.opening import open_checkpoint
from services.weights.slices import prepare_slices
from services.weights.stores import open_source

WIDE = PLAIN | {"hidden_size": 512, "expert_ffn_hidden_size": 512, "n_routed_experts": 16}
pytestmark = pytest.mark.processes

F32 = torch.float32


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of some 100 MB, with its manifest made by the command."""
    folder = tmp_path_factory.mktemp("slices")
    path = make_checkpoint(folder / "original", WIDE, seed=4, shards=2)
    done = command(new_user(folder), "manifest", str(path))
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture
def bucket(original: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    with Bucket(read(original)) as server:
        for name, value in bucket_environment(server).items():
            monkeypatch.setenv(name, value)
        yield server


def prepared(path: Path) -> Path:
    prepare_slices(open_source(parse_address(f"s3://{BUCKET}")), Folder(path), Options(retry=FAST))
    return path


def weights_bytes(bucket: Bucket) -> int:
    return sum(bucket.bytes_asked(name) for name in bucket.files if name.endswith(".safetensors"))


def disk_bytes(path: Path) -> int:
    return sum(one.stat().st_blocks * 512 for one in path.glob("*.safetensors"))


def test_a_worker_fetches_what_it_reads_and_has_the_same_bits(original: Path, bucket: Bucket, tmp_path: Path) -> None:
    whole, path = Checkpoint.open(original), prepared(tmp_path / "model")
    size = sum(one.stat().st_size for one in original.glob("*.safetensors"))
    slices = open_checkpoint(path)
    assert slices.digest == whole.digest
    assert weights_bytes(bucket) <= 2 * BLOCK_BYTES, "the headers"
    for layer, expert in ((0, 3), (1, 6)):
        ours, theirs = (load_expert(one, layer, expert, F32) for one in (slices, whole))
        assert torch.equal(ours.gate_up_2FD, theirs.gate_up_2FD)
        assert torch.equal(ours.down_DF, theirs.down_DF)
    assert weights_bytes(bucket) < size / 2
    assert disk_bytes(path) < size / 2
    asked = weights_bytes(bucket)
    load_expert(slices, 0, 3, F32)
    load_expert(open_checkpoint(prepared(path)), 1, 6, F32)
    assert weights_bytes(bucket) == asked, "blocks that are there stay, also when the worker starts again"


def test_a_damaged_block_is_fetched_again_and_then_refused_by_name(bucket: Bucket, tmp_path: Path) -> None:
    slices = open_checkpoint(prepared(tmp_path))
    shards = [name for name in bucket.files if name.endswith(".safetensors")]
    bucket.faults.damaged = dict.fromkeys(shards, 1)
    load_expert(slices, 0, 0, F32)
    bucket.faults.damaged = dict.fromkeys(shards, 1000)
    with pytest.raises(CheckpointError, match=r"\.safetensors: .*bytes \d+ to \d+ are not those of the manifest"):
        load_expert(slices, 1, 7, F32)
    bucket.faults.damaged = {}
    load_expert(slices, 1, 7, F32)


def test_a_source_that_goes_away_is_an_error_of_the_tensor(bucket: Bucket, tmp_path: Path) -> None:
    slices = open_checkpoint(prepared(tmp_path))
    bucket.files = {name: content for name, content in bucket.files.items() if not name.endswith(".safetensors")}
    with pytest.raises(CheckpointError, match=r"experts\.7\.gate_proj\.weight: s3://weights: "):
        load_expert(slices, 1, 7, F32)


def test_slices_of_another_version_are_not_mixed(original: Path, bucket: Bucket, tmp_path: Path) -> None:
    path = prepared(tmp_path / "model")
    load_expert(open_checkpoint(path), 0, 0, F32)
    other = make_checkpoint(tmp_path / "other", WIDE, seed=5, shards=2)
    assert command(new_user(tmp_path), "manifest", str(other)).returncode == 0
    bucket.files = read(other)
    load = load_expert(open_checkpoint(prepared(path)), 0, 0, F32)
    assert torch.equal(load.down_DF, load_expert(Checkpoint.open(other), 0, 0, F32).down_DF)


def test_slices_become_whole_and_stay_so(original: Path, bucket: Bucket, tmp_path: Path) -> None:
    load_expert(open_checkpoint(prepared(tmp_path)), 0, 0, F32)
    fetched(open_source(parse_address(f"s3://{BUCKET}")), tmp_path)
    bucket.ranges.clear()
    whole = open_checkpoint(prepared(tmp_path))
    assert torch.equal(load_expert(whole, 1, 6, F32).down_DF, load_expert(Checkpoint.open(original), 1, 6, F32).down_DF)
    assert whole.digest == Checkpoint.open(original).digest
    assert not bucket.ranges


def test_slices_need_a_manifest(bucket: Bucket, tmp_path: Path) -> None:
    manifest = bucket.files.pop(FILE)
    user = new_user(tmp_path) | bucket_environment(bucket)
    address = f"s3://{BUCKET}"
    line = one_line(command(user, "fetch", "--slices", address, str(tmp_path / "model")))
    assert f"has no {FILE}, by which slices are checked" in line
    (tmp_path / "elsewhere.json").write_bytes(manifest)
    given = ("--manifest", str(tmp_path / "elsewhere.json"))
    assert command(user, "fetch", "--slices", *given, address, str(tmp_path / "model")).returncode == 0
    assert command(user, "fetch", "--wait", "--no-weights", address, str(tmp_path / "model")).returncode == 0


def test_a_manifest_that_is_none_is_an_error(bucket: Bucket, tmp_path: Path) -> None:
    for wrong in (b"{}", b"[", b'{"format": 1, "block_bytes": 4194304, "digest": "x", "files": {}}'):
        bucket.files[FILE] = wrong
        with pytest.raises(BadSource, match=FILE):
            prepared(tmp_path)
