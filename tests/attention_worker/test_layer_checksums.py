"""Checksums of each layer's rows, for requests that ask: the same in any batch and chunking, and they name a layer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from caracal_proto import attention_pb2
from safetensors.torch import load_file, save_file
from support.engine_driver import Driver, Received, limits
from support.reference_dispatcher import ReferenceDispatcher
from support.tiny_checkpoint import WIDE_TOP_K, make_checkpoint

from services.attention_worker.attempts import fill
from services.attention_worker.engine.engine import EngineLimits
from services.attention_worker.engine.sequence import Sampling, TokenOut
from services.attention_worker.model.model import load_model
from services.checkpoint.reader import Checkpoint

LAYERS, PROMPT, TOKENS = 4, [5, 9, 17, 33, 65, 129, 11, 12, 13], 6
SAMPLING = Sampling(max_tokens=TOKENS, ignore_eos=True, temperature=0.7, seed=3)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("layers"), WIDE_TOP_K, num_layers=LAYERS, shards=1)


def driver_of(path: Path, sizes: EngineLimits) -> Driver:
    torch.set_num_threads(1)
    checkpoint = Checkpoint.open(path)
    model = load_model(checkpoint, torch.bfloat16, lambda done, total: None)
    return Driver(model, ReferenceDispatcher(checkpoint, torch.bfloat16), sizes)


def layers_of(received: Received) -> dict[int, tuple[int, ...]]:
    found: dict[int, tuple[int, ...]] = {}
    for token in received.tokens:
        if token.layers:
            assert found.setdefault(token.index, token.layers) == token.layers, "computed again, with other bits"
    return found


def generated(received: Received) -> list[tuple[int, int, int]]:
    return [(token.index, token.id, token.logits_checksum) for token in received.tokens if token.generated]


def alone(path: Path) -> tuple[list[tuple[int, int, int]], dict[int, tuple[int, ...]]]:
    driver = driver_of(path, limits())
    asked = driver.submit(PROMPT, SAMPLING, layer_checksums=True)
    driver.finish()
    return generated(asked), layers_of(asked)


SIZES = {
    "one chunk": limits(),
    "chunks of four": limits(max_batch_tokens=4, max_running=3),
    "preemption": limits(max_batch_tokens=24, max_running=6, num_pages=5),
}


@pytest.mark.parametrize("name", SIZES)
def test_they_are_the_same_beside_others_and_only_who_asks_gets_them(path: Path, name: str) -> None:
    tokens, expected = alone(path)
    assert sorted(expected) == list(range(len(PROMPT) + TOKENS - 1))
    assert {len(row) for row in expected.values()} == {1 + LAYERS}
    driver = driver_of(path, SIZES[name])
    others = [driver.submit([7 + n] * (5 + n), Sampling(max_tokens=20, ignore_eos=True)) for n in range(3)]
    asked = driver.submit(PROMPT, SAMPLING, layer_checksums=True)
    plain = driver.submit(PROMPT, SAMPLING)
    driver.finish()
    assert generated(asked) == generated(plain) == tokens
    assert layers_of(asked) == expected
    assert not any(token.layers for one in (*others, plain) for token in one.tokens)


def test_a_replay_gives_those_of_all_its_tokens(path: Path) -> None:
    tokens, expected = alone(path)
    driver = driver_of(path, limits())
    emitted = [id for _, id, _ in tokens[:3]]
    asked = driver.submit(PROMPT, SAMPLING, emitted, layer_checksums=True)
    driver.finish()
    assert layers_of(asked) == expected


def test_what_is_cached_is_computed_anew(path: Path) -> None:
    driver = driver_of(path, limits())
    prompt = PROMPT * 5
    plain = driver.submit(prompt, SAMPLING)
    driver.finish()
    again = driver.submit(prompt, SAMPLING)
    asked = driver.submit(prompt, SAMPLING, layer_checksums=True)
    driver.finish()
    assert again.tokens[0].cached > 0
    assert sorted(layers_of(asked)) == list(range(len(prompt) + TOKENS - 1))
    assert generated(asked) == generated(again) == generated(plain)


@pytest.mark.parametrize(
    ("tensor", "first"),
    [
        ("model.layers.2.self_attn.1.o_proj.weight", 3),
        ("model.layers.0.mlps.0.up_proj.weight", 1),
        ("model.embed_tokens.weight", 0),
        ("model.norm.weight", None),
    ],
)
def test_a_changed_weight_shows_at_its_layer(path: Path, tmp_path: Path, tensor: str, first: int | None) -> None:
    (tmp_path / "changed").mkdir()
    for file in path.iterdir():
        (tmp_path / "changed" / file.name).write_bytes(file.read_bytes())
    (shard,) = (tmp_path / "changed").glob("*.safetensors")
    tensors = load_file(shard)
    tensors[tensor].view(-1)[:] *= 1.5
    save_file(tensors, shard)
    (tokens, rows), (others, changed) = alone(path), alone(tmp_path / "changed")
    assert tokens[0][2] != others[0][2]
    prompt = range(len(PROMPT))  # the answers are not the same
    differs = [n for n in range(1 + LAYERS) if any(rows[place][n] != changed[place][n] for place in prompt)]
    assert (differs[0] if differs else None) == first


def test_they_are_no_tokens_of_the_answer_on_the_wire() -> None:
    event = fill(attention_pb2.GenerateEvent(), 1, [TokenOut(4, 9, 0, layers=(1, 2**32 - 1)), TokenOut(0, 7, 5)], None)
    assert [(row.position, list(row.checksum)) for row in event.layers] == [(4, [1, 2**32 - 1])]
    assert [token.id for token in event.tokens] == [7]
    assert not event.prompt
