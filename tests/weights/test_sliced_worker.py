"""An expert worker, a process, on slices: the bits of one on the whole folder, and it fetches what it lacks."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch
from caracal_proto import expert_pb2, placement_pb2
from caracal_proto.expert_pb2_grpc import ExpertStub
from caracal_proto.placements import pack_experts
from support.expert_workers import gates, load_everything, open_dispatcher, place, random_batch, run, workers
from support.fetched_files import FAST, bucket_environment, read
from support.tiny_checkpoint import PLAIN, make_checkpoint
from support.weight_stores import BUCKET, Bucket
from support.worker_processes import Store, redis_store, spawn

from services.checkpoint.reader import Checkpoint
from services.weights.address import parse_address
from services.weights.fetch import Options
from services.weights.folder import Folder
from services.weights.manifest import FILE, make_manifest
from services.weights.slices import prepare_slices
from services.weights.stores import open_source

pytestmark = pytest.mark.processes

SIZES = {"hidden_size": 512, "expert_ffn_hidden_size": 512, "n_routed_experts": 16}
F32 = torch.float32
FEW = range(2)  # of each layer's experts: what the sliced worker is given


@dataclass
class Sliced:
    """A worker process on slices of the bucket's model."""

    folder: Path
    bucket: Bucket
    process: subprocess.Popen[str]
    endpoint: placement_pb2.Endpoint

    @property
    def disk_bytes(self) -> int:
        return sum(one.stat().st_blocks * 512 for one in self.folder.glob("*.safetensors"))

    def prepare(self, epoch: int, *experts: tuple[int, int]) -> None:
        """As the leader does. Raises grpc.RpcError."""
        items = pack_experts(*np.array(experts).T)
        with grpc.insecure_channel(self.endpoint.address) as channel:
            ExpertStub(channel).Prepare(expert_pb2.PrepareRequest(epoch=epoch, experts=items), timeout=30)

    def commit(self, table: placement_pb2.Table) -> None:
        with grpc.insecure_channel(self.endpoint.address) as channel:
            ExpertStub(channel).Commit(expert_pb2.CommitRequest(table=table), timeout=10)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of some 100 MB, beside its manifest."""
    path = make_checkpoint(tmp_path_factory.mktemp("sliced") / "original", PLAIN | SIZES, seed=7, shards=2)
    manifest = make_manifest(path, Checkpoint.open(path).digest, lambda *_: None)
    (path / FILE).write_text(manifest.to_json())
    return path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with redis_store(tmp_path) as one:
        yield one


@pytest.fixture
def sliced(original: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sliced]:
    with Bucket(read(original)) as bucket:
        for name, value in bucket_environment(bucket).items():
            monkeypatch.setenv(name, value)
        folder = tmp_path / "model"
        prepare_slices(open_source(parse_address(f"s3://{BUCKET}")), Folder(folder), Options(retry=FAST))
        process = spawn("expert", MODEL=str(folder), REDIS_URL=store.url, WORKER_ID="sliced")
        try:
            lease = store.await_record("expert", "sliced")
            endpoint = placement_pb2.Endpoint(worker_id="sliced", boot_id=lease["boot_id"], address=lease["address"])
            yield Sliced(folder, bucket, process, endpoint)
        finally:
            process.kill()
            process.communicate()


def test_its_bits_are_those_of_the_whole_folder(original: Path, sliced: Sliced) -> None:
    whole = Checkpoint.open(original)
    with workers(whole, F32, 1) as (beside,), open_dispatcher(whole) as dispatcher, open_dispatcher(whole) as alone:
        load_everything(beside.experts)
        endpoints = [beside.endpoint, sliced.endpoint]
        split = place(1, whole, endpoints, lambda layer, expert: [int(expert in FEW)])
        sliced.prepare(1, *((layer, expert) for layer in range(2) for expert in FEW))
        assert sliced.disk_bytes < sum(one.stat().st_size for one in original.glob("*.safetensors")) / 2
        sliced.commit(split)
        dispatcher.apply(split)
        alone.apply(place(1, whole, [beside.endpoint], lambda layer, expert: [0]))
        for layer, gate in enumerate(gates(whole)):
            for number in range(6):
                batch = random_batch(number, whole.config.hidden_size, F32, tokens=16)
                one, other = (run(each, layer, gate, batch) for each in (dispatcher, alone))
                assert torch.equal(one, other), (layer, number)
        sent, sent_alone = (each.stats.total().messages_sent for each in (dispatcher, alone))
        assert sent > sent_alone, "rows went to both workers"


def test_experts_that_its_slices_lack_are_fetched_or_refused_by_name(sliced: Sliced) -> None:
    weights = {name: content for name, content in sliced.bucket.files.items() if name.endswith(".safetensors")}
    sliced.bucket.faults.refused = 1000
    with pytest.raises(grpc.RpcError, match=r"StatusCode\.UNAVAILABLE[\s\S]*experts\.3\.\w+\.weight: s3://weights: "):
        sliced.prepare(1, (0, 3))
    assert sliced.process.poll() is None, "a source that does not answer ends no worker, also one without experts"
    sliced.bucket.faults.refused = 0
    sliced.prepare(1, (0, 3))
    before = sliced.disk_bytes
    for name in weights:
        del sliced.bucket.files[name]
    with pytest.raises(
        grpc.RpcError, match=r"StatusCode\.INVALID_ARGUMENT[\s\S]*experts\.9\.\w+\.weight: s3://weights: "
    ):
        sliced.prepare(2, (0, 3), (1, 9))
    sliced.prepare(3, (0, 3))
    assert sliced.process.poll() is None
    sliced.bucket.files |= weights
    sliced.prepare(4, (0, 3), (1, 9))
    assert sliced.disk_bytes > before


def test_without_experts_one_that_the_source_has_no_more_ends_it(sliced: Sliced) -> None:
    """As of a folder: the last line of its log names the file and the tensor."""
    for name in [*sliced.bucket.files]:
        del sliced.bucket.files[name]
    with pytest.raises(grpc.RpcError):
        sliced.prepare(1, (0, 5))
    _, errors = sliced.process.communicate(timeout=30)
    last = errors.strip().splitlines()[-1]
    assert sliced.process.returncode == 2
    assert last.startswith("caracal: model-0000")
    assert "experts.5." in last
