"""A wrong directory gives one line that names the file and the tensor or field, before any weight is read."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.broken_checkpoint import edit_header, edit_json, edit_tensor, shard_of
from support.tiny_checkpoint import make_checkpoint

from services.attention_worker.model.model import load_model
from services.checkpoint.errors import CheckpointError
from services.checkpoint.reader import Checkpoint, load_expert
from services.checkpoint.safetensors import INDEX, SINGLE

HEAD = "lm_head.weight"
GATE = "model.layers.1.mlp.experts.3.gate_proj.weight"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "model")


def error_of(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_not_a_directory(tmp_path: Path) -> None:
    assert error_of(tmp_path / "nowhere") == f"{tmp_path / 'nowhere'}: is not a directory"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "config.json: is not valid JSON"),
        ("[]", "config.json: is not a JSON object"),
        ("[" * 10**5, "config.json: is not"),
    ],
)
def test_config_is_no_object(directory: Path, text: str, expected: str) -> None:
    (directory / "config.json").write_text(text)
    assert error_of(directory).startswith(expected)
    (directory / "config.json").unlink()
    assert error_of(directory) == "config.json: No such file or directory"


def test_missing_shard(directory: Path) -> None:
    shard = shard_of(directory, HEAD)
    first = min(
        json.loads((directory / INDEX).read_text())["weight_map"].items(),
        key=lambda item: (item[1] != shard.name, item),
    )
    shard.unlink()
    assert error_of(directory) == f"{shard.name}: {first[0]}: the index puts this tensor there, and the file is missing"


@pytest.mark.parametrize("shard", ["../model.safetensors", "pytorch_model.bin", "", 7, "a\x00.safetensors"])
def test_index_names_no_safetensors_file(directory: Path, shard: object) -> None:
    edit_json(directory / INDEX, lambda index: index["weight_map"].update({HEAD: shard}))
    assert error_of(directory) == f"{INDEX}: {HEAD}: {shard!r} is not the name of a safetensors file beside the index"


@pytest.mark.parametrize("weight_map", [None, [], {}, "x"])
def test_index_without_a_map(directory: Path, weight_map: object) -> None:
    edit_json(directory / INDEX, lambda index: index.update(weight_map=weight_map))
    assert error_of(directory) == f"{INDEX}: weight_map: is not a map from tensor to file"


def test_index_and_file_disagree(directory: Path) -> None:
    shard = shard_of(directory, HEAD)
    edit_json(directory / INDEX, lambda index: index["weight_map"].update({"extra.weight": shard.name}))
    assert (
        error_of(directory)
        == f"{shard.name}: extra.weight: the index puts this tensor there, and the file does not hold it"
    )


def test_tensor_in_two_files(directory: Path) -> None:
    files = sorted(directory.glob("*.safetensors"))
    first = shard_of(directory, HEAD)
    other = next(file for file in files if file != first)
    save_file(load_file(other) | {HEAD: torch.zeros(1)}, other)
    assert f"{HEAD}: is also in " in error_of(directory)


def test_missing_tensor(directory: Path) -> None:
    shard = shard_of(directory, GATE)
    save_file({name: value for name, value in load_file(shard).items() if name != GATE}, shard)
    edit_json(directory / INDEX, lambda index: index["weight_map"].pop(GATE))
    assert error_of(directory) == f"{INDEX}: {GATE}: is missing"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda tensor: tensor[:-1], "shape [31, 64], config.json makes it [32, 64]"),
        (lambda tensor: tensor.T, "shape [64, 32], config.json makes it [32, 64]"),
        (lambda tensor: tensor.half(), "dtype F16 is not supported, only BF16 and F32, matrices also F8_E4M3"),
        (
            lambda tensor: tensor.to(torch.float8_e4m3fn),
            "is stored as F8_E4M3, and config.json has no quantization_config",
        ),
        (lambda tensor: tensor.to(torch.int64), "dtype I64 is not supported, only BF16 and F32, matrices also F8_E4M3"),
    ],
)
def test_wrong_shape_or_dtype(directory: Path, change: Callable[[torch.Tensor], torch.Tensor], expected: str) -> None:
    edit_tensor(directory, GATE, change)
    assert error_of(directory) == f"{shard_of(directory, GATE).name}: {GATE}: {expected}"


@pytest.mark.parametrize("kept", [0, 5, 200, -1])
def test_truncated(directory: Path, kept: int) -> None:
    shard = shard_of(directory, HEAD)
    raw = shard.read_bytes()[:kept]
    shard.write_bytes(raw)
    message = error_of(directory)
    assert message.startswith(f"{shard.name}: ")
    assert "truncated" in message
    assert str(len(raw)) in message


def test_bytes_that_belong_to_no_tensor(directory: Path) -> None:
    shard = shard_of(directory, HEAD)
    size = shard.stat().st_size
    shard.write_bytes(shard.read_bytes() + b"tail")
    assert error_of(directory) == f"{shard.name}: has {size + 4} bytes, its header describes {size}"


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"dtype": "F32", "shape": [320, 64]}, "malformed header entry"),
        ({"dtype": "F32", "shape": [320, -64], "data_offsets": [0, 8]}, "malformed header entry"),
        ({"dtype": "F32", "shape": [10**9, "x"], "data_offsets": [0, 8]}, "malformed header entry"),
        ({"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]}, "malformed header entry"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}, "[2] of F32 is not -8 bytes"),
        ({"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}, "[3] of F32 is not 8 bytes"),
        (7, "malformed header entry"),
    ],
)
def test_header_entries(directory: Path, entry: object, expected: str) -> None:
    shard = shard_of(directory, HEAD)
    edit_header(shard, lambda header: header.update({HEAD: entry}))
    assert error_of(directory) == f"{shard.name}: {HEAD}: {expected}"


def test_overlapping_tensors(directory: Path) -> None:
    norms = "model.layers.0.input_layernorm.0.weight", "model.layers.0.input_layernorm.1.weight"
    shard = shard_of(directory, norms[0])

    def overlap(header: dict[str, Any]) -> None:
        header["a\nb"] = header[norms[0]]

    edit_header(shard, overlap)
    message = error_of(directory)
    assert message.startswith(f"{shard.name}: ")
    assert ": starts at byte " in message


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite(directory: Path, value: float) -> None:
    for name in (HEAD, GATE):
        edit_tensor(directory, name, lambda tensor: tensor.index_fill(1, torch.tensor([5]), value))
    checkpoint = Checkpoint.open(directory)
    why = "holds NaN, infinity, or values too large for float32"
    with pytest.raises(CheckpointError) as attention:
        load_model(checkpoint, torch.float32, lambda done, total: None)
    assert str(attention.value) == f"{shard_of(directory, HEAD).name}: {HEAD}: {why}"
    with pytest.raises(CheckpointError) as expert:
        load_expert(checkpoint, 1, 3, torch.float32)
    assert str(expert.value) == f"{shard_of(directory, GATE).name}: {GATE}: {why}"


def test_weights_out_of_the_range_of_the_model_dtype(directory: Path) -> None:
    edit_tensor(directory, HEAD, lambda tensor: tensor.fill_(3.4e38))
    checkpoint = Checkpoint.open(directory)
    assert checkpoint.tensor(HEAD, torch.float32).max() > 3e38
    with pytest.raises(CheckpointError, match="too large for bfloat16"):
        checkpoint.tensor(HEAD, torch.bfloat16)


def test_truncated_or_gone_after_opening(directory: Path) -> None:
    checkpoint = Checkpoint.open(directory)
    shard = shard_of(directory, HEAD)
    with shard.open("r+b") as stream:
        stream.truncate(3000)
    with pytest.raises(CheckpointError, match=f"{shard.name}: {HEAD}: truncated since it was opened"):
        checkpoint.tensor(HEAD, torch.float32)
    shard.unlink()
    with pytest.raises(CheckpointError, match=f"{shard.name}: {HEAD}: No such file or directory"):
        checkpoint.tensor(HEAD, torch.float32)


class Trap:
    """An object whose unpickling creates a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.file,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.pth", SINGLE])
def test_pickles_are_never_opened(directory: Path, tmp_path: Path, name: str) -> None:
    for file in (*directory.glob("*.safetensors"), directory / INDEX):
        file.unlink()
    assert error_of(directory) == f"{INDEX}: missing, and there is no {SINGLE} either"
    torch.save({HEAD: Trap(tmp_path / "unpickled")}, directory / name)
    assert error_of(directory).startswith(
        f"{name}: {'truncated' if name == SINGLE else 'pickled weights are never read'}"
    )
    assert not (tmp_path / "unpickled").exists()
