"""The twin of a LongCat-Flash model in llama.cpp's format: the same work, and a file that is what it says."""

from __future__ import annotations

import importlib.util
import json
import random
import sys
import venv
from dataclasses import replace
from math import prod
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType, GGUFReader

from bench.llama.ready import LlamaBaseline, why_not
from bench.llama.twin import NoTwin, active_experts, metadata, weights, write
from bench.processes import REPO
from bench.roofline import step_work
from services.checkpoint.config import ModelConfig
from services.checkpoint.tensors import attention_tensors, expert_tensors

TINY, MEASURED = (
    ModelConfig.from_dict(json.loads((REPO / "bench" / "config" / f"{name}.json").read_text()))
    for name in ("bench-tiny", "bench-90m")
)
# Of the file that llama.cpp's own converter makes of a DeepSeek-V2 checkpoint of these sizes, in torch's order.
CONVERTED = {
    "output.weight": (8192, 512),
    "token_embd.weight": (8192, 512),
    "output_norm.weight": (512,),
    "blk.0.attn_norm.weight": (512,),
    "blk.0.ffn_norm.weight": (512,),
    "blk.0.ffn_down.weight": (512, 1024),
    "blk.0.ffn_gate.weight": (1024, 512),
    "blk.0.ffn_up.weight": (1024, 512),
    "blk.0.attn_kv_a_norm.weight": (64,),
    "blk.0.attn_kv_a_mqa.weight": (80, 512),
    "blk.0.attn_k_b.weight": (8, 64, 32),
    "blk.0.attn_v_b.weight": (8, 32, 64),
    "blk.0.attn_output.weight": (512, 256),
    "blk.0.attn_q_a_norm.weight": (192,),
    "blk.0.attn_q_a.weight": (192, 512),
    "blk.0.attn_q_b.weight": (384, 192),
    "blk.4.ffn_gate_inp.weight": (32, 512),
    "blk.4.ffn_down_exps.weight": (32, 512, 256),
    "blk.4.ffn_gate_exps.weight": (32, 256, 512),
    "blk.4.ffn_up_exps.weight": (32, 256, 512),
    "blk.4.ffn_down_shexp.weight": (512, 1024),
    "blk.4.ffn_gate_shexp.weight": (1024, 512),
    "blk.4.ffn_up_shexp.weight": (1024, 512),
}
CONVERTED_TENSORS, CONVERTED_BYTES = 123, 148_940_800


def bytes_of(shape: tuple[int, ...], exact: bool) -> int:
    return prod(shape) * (4 if exact else 2)


def test_it_has_the_tensors_that_the_converter_writes() -> None:
    found = {weight.name: weight for weight in weights(MEASURED)}
    assert len(found) == CONVERTED_TENSORS
    assert {name: found[name].shape for name in CONVERTED} == CONVERTED
    assert sum(bytes_of(weight.shape, weight.exact) for weight in found.values()) == CONVERTED_BYTES
    assert "blk.0.ffn_gate_inp.weight" not in found
    assert "blk.4.ffn_gate.weight" not in found


def test_a_file_is_read_back_with_names_shapes_types_and_sizes(tmp_path: Path) -> None:
    write(TINY, tmp_path / "twin.gguf")
    read = GGUFReader(tmp_path / "twin.gguf")
    expected = {weight.name: weight for weight in weights(TINY)}
    assert [tensor.name for tensor in read.tensors] == list(expected)
    for tensor in read.tensors:
        weight = expected[tensor.name]
        assert tuple(map(int, reversed(tensor.shape))) == weight.shape, tensor.name
        assert tensor.tensor_type == (GGMLQuantizationType.F32 if weight.exact else GGMLQuantizationType.BF16)
        assert tensor.n_bytes == bytes_of(weight.shape, weight.exact), tensor.name
        assert tensor.data.any(), tensor.name
    for key, value in metadata(TINY).items():
        field = read.get_field(f"deepseek2.{key}")
        assert field is not None, key
        assert field.contents() == pytest.approx(value), key


def test_it_does_the_work_of_the_model() -> None:
    """Weights that a token passes through: equal but for the gates, which choose among zero experts as well."""
    ours = [(name, prod(shape)) for name, shape in attention_tensors(MEASURED) if len(shape) == 2]
    dense = sum(count for name, count in ours if "classifier" not in name)
    expert = sum(
        prod(shape) for name, shape in expert_tensors(MEASURED) if name.startswith("model.layers.0.mlp.experts.0.")
    )
    twins = {weight.name: prod(weight.shape) for weight in weights(MEASURED) if len(weight.shape) > 1}
    routed = sum(count for name, count in twins.items() if "_exps" in name)
    gates = sum(count for name, count in twins.items() if "ffn_gate_inp" in name)
    assert sum(twins.values()) - routed - gates == dense
    assert routed == MEASURED.num_layers * MEASURED.n_routed_experts * expert
    assert active_experts(MEASURED) == MEASURED.moe_topk * MEASURED.n_routed_experts / MEASURED.num_gate_outputs
    assert step_work(MEASURED, 1, 0).flops == pytest.approx(
        2 * (dense - MEASURED.vocab_size * MEASURED.hidden_size + 4 * active_experts(MEASURED) * expert), rel=0.01
    )


def test_a_model_that_has_no_twin_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoTwin, match=r"ffn_hidden_size 100 is no multiple of expert_ffn_hidden_size 32"):
        write(replace(TINY, ffn_hidden_size=100), tmp_path / "twin.gguf")


@pytest.mark.processes
def test_an_interpreter_without_llama_cpp_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    absent = tmp_path / "python"
    assert why_not(str(absent)) == f"{absent}: No such file or directory"
    venv.create(tmp_path / "bare")
    bare = str(tmp_path / "bare" / "bin" / "python")
    assert why_not(bare) == f"{bare} has no package llama_cpp"


@pytest.mark.processes
@pytest.mark.skipif(
    importlib.util.find_spec("llama_cpp") is None, reason="llama_cpp is not installed: make .venv/.bench"
)
def test_llama_cpp_decodes_the_twin(tmp_path: Path) -> None:
    started = LlamaBaseline(TINY, tmp_path / "twin.gguf", sys.executable, 1, tmp_path / "log")
    rng = random.Random(0)
    try:
        for streams in (1, 3):
            batch = [[rng.randrange(TINY.vocab_size) for _ in range(8)] for _ in range(streams)]
            answer = started.ask(batch, 8)
            assert answer["tokens"] == 8 * streams
            assert 0 < 7 * answer["inter_token_s"] < answer["seconds"]
        assert "settings by streams: 1: flash attention" in started.described()
    finally:
        started.close()
