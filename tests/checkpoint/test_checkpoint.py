"""What a checkpoint returns, and that it reads no more bytes than requested."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.broken_checkpoint import edit_json, edit_tensor, shard_of
from support.tiny_checkpoint import PLAIN, UNEVEN, make_checkpoint, random_weights

from services.attention_worker.model.model import load_model
from services.checkpoint.device import CPU
from services.checkpoint.numerics import numerics_of
from services.checkpoint.reader import Checkpoint, load_expert
from services.checkpoint.safetensors import INDEX, SINGLE
from services.checkpoint.tensors import attention_tensors, expert_tensors

EXPERT = "model.layers.1.mlp.experts.3."


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "model")


class RecordingCheckpoint(Checkpoint):
    """A checkpoint that records which tensors were read."""

    def __init__(self, *given: object) -> None:
        super().__init__(*given)  # type: ignore[arg-type]
        self.read: list[str] = []

    def tensor(self, name: str, *given: Any, **options: Any) -> torch.Tensor:
        self.read.append(name)
        return super().tensor(name, *given, **options)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_tensors_come_back_as_written(tmp_path: Path, stored: torch.dtype) -> None:
    checkpoint = Checkpoint.open(make_checkpoint(tmp_path, dtype=stored, shards=3))
    weights = random_weights(checkpoint.config, 0, stored)
    assert checkpoint.names() == sorted(weights)
    for name, expected in weights.items():
        assert torch.equal(checkpoint.tensor(name, expected.dtype), expected)
        assert torch.equal(checkpoint.tensor(name, torch.bfloat16), expected.to(torch.bfloat16))


def test_an_expert_is_gate_above_up(directory: Path) -> None:
    checkpoint = Checkpoint.open(directory)
    expert = load_expert(checkpoint, 1, 3, torch.float32)
    gate, up, down = (
        checkpoint.tensor(f"{EXPERT}{part}_proj.weight", torch.float32) for part in ("gate", "up", "down")
    )
    assert torch.equal(expert.gate_up_2FD, torch.cat([gate, up]))
    assert torch.equal(expert.down_DF, down)


def test_attention_reads_everything_but_experts_once(directory: Path) -> None:
    checkpoint = RecordingCheckpoint.open(directory)
    progress: list[tuple[int, int]] = []
    load_model(checkpoint, torch.float32, lambda done, total: progress.append((done, total)))
    wanted = sorted(name for name, _ in attention_tensors(checkpoint.config))
    assert sorted(checkpoint.read) == wanted
    assert sorted(wanted + [name for name, _ in expert_tensors(checkpoint.config)]) == checkpoint.names()
    assert progress == [(done, len(wanted)) for done in range(1, len(wanted) + 1)]


def bytes_read() -> int:
    """Returns how many bytes this process has read, as Linux counts them."""
    return int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="Linux counts a process's reads")
def test_an_expert_is_read_in_its_own_bytes(directory: Path) -> None:
    checkpoint = Checkpoint.open(directory)
    own = 3 * PLAIN["hidden_size"] * PLAIN["expert_ffn_hidden_size"] * 4
    before = bytes_read()
    load_expert(checkpoint, 1, 3, torch.float32)
    assert own <= bytes_read() - before < own + 4096  # the slack is this test reading its own count
    assert sum(file.stat().st_size for file in directory.glob("*.safetensors")) > 20 * own


def test_weights_outlive_their_file(directory: Path) -> None:
    checkpoint = Checkpoint.open(directory)
    before = checkpoint.tensor("lm_head.weight", torch.float32)
    copy = before.clone()
    shard = shard_of(directory, "lm_head.weight")
    with shard.open("r+b") as stream:  # in place, as rsync --inplace would
        stream.write(b"\xff" * shard.stat().st_size)
    assert torch.equal(before, copy)


def test_one_file_without_an_index(directory: Path) -> None:
    sharded = Checkpoint.open(directory)
    shards = sorted(directory.glob("*.safetensors"))
    save_file({name: value for shard in shards for name, value in load_file(shard).items()}, directory / SINGLE)
    for file in (*shards, directory / INDEX):
        file.unlink()
    single = Checkpoint.open(directory)
    assert single.names() == sharded.names()
    assert single.digest == sharded.digest, "the split over files does not count"


def test_tensors_that_are_not_needed_are_listed_and_not_read(directory: Path) -> None:
    name = "model.mtp.norm.weight"
    shard = shard_of(directory, "lm_head.weight")
    save_file(load_file(shard) | {name: torch.zeros(5, dtype=torch.float16)}, shard)
    edit_json(directory / INDEX, lambda index: index["weight_map"].update({name: shard.name}))
    checkpoint = RecordingCheckpoint.open(directory)
    load_model(checkpoint, torch.float32, lambda done, total: None)
    assert name in checkpoint.names()
    assert name not in checkpoint.read


def test_the_digest_depends_on_weights_shapes_and_numeric_fields(tmp_path: Path) -> None:
    def digest(change: str = "", **given: object) -> str:
        path = make_checkpoint(tmp_path / "one", **given)  # type: ignore[arg-type]
        if change:
            edit_tensor(path, change, lambda tensor: tensor + (torch.arange(tensor.numel()) == 0).view_as(tensor))
        return Checkpoint.open(path).digest

    same = {digest(), digest(), digest(shards=5), digest(eos_token_id=[2, 5])}
    others = [
        digest(seed=1),
        digest(dtype=torch.bfloat16),
        digest(routed_scaling_factor=2.0),
        digest(rope_theta=10001.0),
        digest(zero_expert_type="drop"),
        digest(change="lm_head.weight"),
        digest(change=f"{EXPERT}down_proj.weight"),
    ]
    assert len(same) == 1
    assert len(same | set(others)) == 1 + len(others)


def test_numerics_class_differs_by_dtype_and_weights(tmp_path: Path) -> None:
    one, other = (Checkpoint.open(make_checkpoint(tmp_path / str(seed), seed=seed)) for seed in (0, 1))
    classes = {
        numerics_of(one, torch.float32, CPU).name,
        numerics_of(one, torch.bfloat16, CPU).name,
        numerics_of(other, torch.float32, CPU).name,
    }
    assert len(classes) == 3
    assert numerics_of(one, torch.float32, CPU).name in classes, "the same at the second call"
    assert all(name.startswith("caracal-") and len(name) == 24 for name in classes)


@pytest.mark.processes
def test_tiny_checkpoint_is_also_a_command(tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "support" / "tiny_checkpoint.py"
    arguments = ["--preset", "uneven", "--seed", "3", "--dtype", "float32"]
    env = {"PYTHONPATH": ":".join(sys.path)}
    subprocess.run([sys.executable, script, tmp_path / "by command", *arguments], check=True, env=env)
    expected = Checkpoint.open(make_checkpoint(tmp_path / "by call", UNEVEN, seed=3)).digest
    assert Checkpoint.open(tmp_path / "by command").digest == expected
