"""Damage at random places: a directory is read, or rejected with one line; the reader raises nothing else."""

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny_checkpoint import make_checkpoint

from services.checkpoint.errors import CheckpointError
from services.checkpoint.reader import Checkpoint
from services.checkpoint.safetensors import INDEX

FILES = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "config.json", INDEX]
SIZES: dict[str, Any] = {"num_layers": 1, "n_routed_experts": 2, "zero_expert_num": 2, "moe_topk": 2}


@functools.cache
def pristine() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = make_checkpoint(Path(folder), **SIZES)
        return {file.name: file.read_bytes() for file in path.iterdir() if file.name in FILES}


def outcome(files: dict[str, bytes]) -> str:
    """Returns "served" or the message of the CheckpointError; any other error is raised."""
    with tempfile.TemporaryDirectory() as folder:
        for name, raw in files.items():
            (Path(folder) / name).write_bytes(raw)
        try:
            checkpoint = Checkpoint.open(Path(folder))
            for name in checkpoint.names():
                checkpoint.tensor(name, torch.float32)
        except CheckpointError as error:
            return str(error)
    return "served"


ANY_FILE = st.sampled_from(FILES)


def one_line(message: str) -> bool:
    file = message.split(":")[0]  # not always the damaged one: a flipped bit in the index names another file
    return message == "served" or (message.splitlines() == [message] and file.endswith((".safetensors", ".json")))


def test_undamaged_is_served() -> None:
    assert outcome(pristine()) == "served"


@settings(max_examples=100)
@given(ANY_FILE, st.data())
def test_truncated_anywhere(damaged: str, data: st.DataObject) -> None:
    raw = pristine()[damaged]
    message = outcome(pristine() | {damaged: raw[: data.draw(st.integers(0, len(raw) - 1))]})
    assert message.startswith(f"{damaged}: ")
    assert one_line(message)


@settings(max_examples=200)
@given(ANY_FILE, st.data())
def test_bits_flipped_near_the_start(damaged: str, data: st.DataObject) -> None:
    raw = bytearray(pristine()[damaged])
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, min(len(raw), 3000) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert one_line(outcome(pristine() | {damaged: bytes(raw)}))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=150)
@given(st.data())
def test_any_value_anywhere_in_a_header(data: st.DataObject) -> None:
    damaged = "model-00001-of-00002.safetensors"
    raw = pristine()[damaged]
    end = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:end])
    name = data.draw(st.sampled_from(sorted(header)))
    if data.draw(st.booleans()):
        header[name] = data.draw(JSON)
    else:
        header[name][data.draw(st.sampled_from(["dtype", "shape", "data_offsets"]))] = data.draw(JSON)
    text = json.dumps(header).encode()
    message = outcome(pristine() | {damaged: len(text).to_bytes(8, "little") + text + raw[end:]})
    assert message.startswith(f"{damaged}: ")
    assert one_line(message)
