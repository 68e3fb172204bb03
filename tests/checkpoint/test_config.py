"""config.json: what decides which model it is, which fields are known, and what is refused in one line by name."""

from __future__ import annotations

import math
from typing import Any

import pytest
from support.tiny_checkpoint import PLAIN

from services.checkpoint.config import ModelConfig
from services.checkpoint.errors import CheckpointError
from services.checkpoint.rope import Rope, Yarn

NGRAM = {
    "architectures": ["LongcatFlashNgramForCausalLM"],
    "ngram_vocab_size_ratio": 3,
    "emb_neighbor_num": 3,
    "emb_split_num": 2,
}
STREAMING = {"sink_size": 128, "recent_size": 256, "sparsity": 0.5, "layer_type": "0101"}
YARN = {"type": "yarn", "factor": 10, "original_max_position_embeddings": 64}
ABSENT = "absent"


def config_of(**changes: Any) -> ModelConfig:
    return ModelConfig.from_dict({name: value for name, value in (PLAIN | changes).items() if value != ABSENT})


def config_error(**changes: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        config_of(**changes)
    message = str(caught.value)
    assert message.startswith("config.json: ")
    assert "\n" not in message
    return message.removeprefix("config.json: ")


FAMILY = [
    (
        {"architectures": ["LongcatCausalLM"], "model_type": None, "index_topk": 2048, "oe_vocab_size_ratio": 100.567},
        "LongCat-2.0: indexer attention (index_topk) is not served",
    ),
    (
        {"architectures": ["LongcatCausalLM"], "model_type": ABSENT, "attention_method": "LSA", "what": 1},
        "LongCat-Flash-Lite-Sparse: indexer attention (index_topk) is not served",
    ),
    (
        {"architectures": ["LongcatNextForCausalLM"], "model_type": "longcat_next", "hidden_size": "?"},
        "LongCat-Next: a vocabulary with image and audio tokens (LongcatNextForCausalLM) is not served",
    ),
    (
        {"architectures": ["LongcatFlashOmniForConditionalGeneration"]},
        "LongCat-Flash-Omni: vision and audio encoders (LongcatFlashOmniForConditionalGeneration) is not served",
    ),
    ({"index_topk": 8}, "LongcatFlashForCausalLM with indexer attention (index_topk) is not served"),
    (
        {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_layers": ABSENT},
        "architectures: 'LlamaForCausalLM' (model_type 'llama') is another model; "
        "Caracal serves LongcatFlashForCausalLM and LongcatFlashNgramForCausalLM",
    ),
    (
        {"architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3"},
        "architectures: 'DeepseekV3ForCausalLM' (model_type 'deepseek_v3') is another model; "
        "Caracal serves LongcatFlashForCausalLM and LongcatFlashNgramForCausalLM",
    ),
    (
        {"architectures": ABSENT, "model_type": "llama"},
        "model_type: 'llama' is another model; Caracal serves LongcatFlashForCausalLM and LongcatFlashNgramForCausalLM",
    ),
    (
        {"architectures": [], "model_type": ABSENT},
        "architectures: is missing, and so is model_type; "
        "Caracal serves LongcatFlashForCausalLM and LongcatFlashNgramForCausalLM",
    ),
    ({"architectures": "LongcatFlashForCausalLM"}, "architectures: 'LongcatFlashForCausalLM' is not a list of names"),
    (
        {"architectures": ["Foo\n\x1b[31m"], "model_type": "foo"},
        r"architectures: 'Foo\n\x1b[31m' (model_type 'foo') is another model; "
        "Caracal serves LongcatFlashForCausalLM and LongcatFlashNgramForCausalLM",
    ),
]


@pytest.mark.parametrize(("changes", "expected"), FAMILY)
def test_what_is_not_served_says_what_it_is_before_anything_else(changes: dict[str, Any], expected: str) -> None:
    assert config_error(**changes) == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": ABSENT},
        {"model_type": None, "auto_map": {"AutoConfig": "configuration_longcat_flash.LongcatFlashConfig"}},
        {"architectures": ABSENT},
        {"model_type": "anything"},
    ],
)
def test_the_architecture_decides_and_model_type_only_without_it(changes: dict[str, Any]) -> None:
    assert config_of(**changes) == config_of()


UNKNOWN = "not known here, and what it means for answers could be lost"
FIELDS = [
    ({"oe_vocab_size_ratio": 78, "sliding": True}, f"oe_vocab_size_ratio, sliding: {UNKNOWN}"),
    ({"temperature": 0.7}, f"temperature: {UNKNOWN}"),
    ({"bad\nname": 1}, f"'bad\\nname': {UNKNOWN}"),
    ({"kv_lora_rank": ABSENT}, "kv_lora_rank: is missing"),
    ({"hidden_size": "64"}, "hidden_size: '64' is not a whole number from 1 to 2147483647"),
    ({"hidden_size": -64}, "hidden_size: -64 is not a whole number from 1 to 2147483647"),
    ({"num_layers": 0}, "num_layers: 0 is not a whole number from 1 to 4096"),
    ({"num_layers": True}, "num_layers: True is not a whole number from 1 to 4096"),
    ({"vocab_size": 10**30}, f"vocab_size: {10**30} is not a whole number from 1 to 16777216"),
    ({"rms_norm_eps": math.nan}, "rms_norm_eps: nan is not a number from 1e-12 to 1e+12"),
    ({"routed_scaling_factor": 10**400}, f"routed_scaling_factor: {10**56}... is not a number from 1e-12 to 1e+12"),
    ({"routed_scaling_factor": None}, "routed_scaling_factor: is missing"),
    (
        {"max_position_embeddings": 2 * 10**8},
        "max_position_embeddings: 200000000 is not a whole number from 1 to 8388608",
    ),
    ({"rope_theta": 1}, "rope_theta: 1 is below 2"),
    ({"rope_theta": 1e-320}, "rope_theta: 1e-320 is not a number from 1e-12 to 1e+12"),
    ({"torch_dtype": "bfloat16", "dtype": "float32"}, "dtype: 'float32' contradicts torch_dtype 'bfloat16'"),
    (
        {"rope_scaling": YARN, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
        "rope_parameters: contradicts rope_scaling",
    ),
    (
        {"rope_scaling": {"rope_type": "default"}, "rope_parameters": YARN},
        "rope_parameters: contradicts rope_scaling",
    ),
    ({"norm_topk_prob": 1}, "norm_topk_prob: 1 is not true or false"),
    ({"mla_scale_q_lora": "no"}, "mla_scale_q_lora: 'no' is not true or false"),
    ({"eos_token_id": ["</s>"]}, "eos_token_id: ('</s>',) is not a token id or a list of them"),
    ({"eos_token_id": []}, "eos_token_id: () is not a token id or a list of them"),
    ({"eos_token_id": 320}, "eos_token_id: 320 lies outside the vocabulary of 320"),
    ({"qk_rope_head_dim": 7}, "qk_rope_head_dim: 7 is odd"),
    ({"moe_topk": 13}, "moe_topk: 13 of 12 experts cannot be chosen"),
    ({"moe_topk": ABSENT, "num_experts_per_tok": 13}, "moe_topk: 13 of 12 experts cannot be chosen"),
    ({"intermediate_size": 97}, "intermediate_size: 97 contradicts ffn_hidden_size 96"),
    (
        {"num_hidden_layers": 3},
        "num_hidden_layers: contradicts num_layers 2: it counts layers or attention sublayers, 2 or 4",
    ),
    ({"num_key_value_heads": 1}, "num_key_value_heads: is not num_attention_heads = 4"),
    ({"qk_head_dim": 16}, "qk_head_dim: is not qk_nope_head_dim + qk_rope_head_dim = 24"),
    ({"zero_expert_type": "copy"}, "zero_expert_type: 'copy': identity or drop"),
    ({"torch_dtype": "float16"}, "torch_dtype: 'float16' is not served; convert the weights to bfloat16 or float32"),
    ({"dtype": "float64"}, "torch_dtype: 'float64' is not served; convert the weights to bfloat16 or float32"),
    ({"hidden_act": "gelu"}, "hidden_act: 'gelu' is not served, only 'silu'"),
    ({"attention_method": "MHA"}, "attention_method: 'MHA' is not served, only 'MLA'"),
    ({"nextn_use_scmoe": True}, "nextn_use_scmoe: True is not served, only False"),
    ({"rounter_params_dtype": "bfloat16"}, "rounter_params_dtype: 'bfloat16' is not served, only 'float32'"),
    (
        {"ngram_vocab_size_ratio": 78},
        "ngram_vocab_size_ratio: LongcatFlashForCausalLM has no n-gram embedding, LongcatFlashNgramForCausalLM has one",
    ),
    (NGRAM | {"ngram_vocab_size_ratio": 0}, "ngram_vocab_size_ratio: 0 gives no tables of 1 to 2147483647 rows"),
    (NGRAM | {"ngram_vocab_size_ratio": None}, "ngram_vocab_size_ratio: None gives no tables of 1 to 2147483647 rows"),
    (NGRAM | {"emb_neighbor_num": 1}, "emb_neighbor_num: 1 is not a whole number of 2 to 64"),
    (NGRAM | {"emb_split_num": 3}, "emb_split_num: 6 tables do not divide hidden_size 64"),
    (
        {"streaming_sparse_attention": STREAMING | {"layer_type": "010"}},
        "streaming_sparse_attention.layer_type: '010' is not a string of 4 characters 0 and 1",
    ),
    (
        {"streaming_sparse_attention": STREAMING | {"sink_size": 0}},
        "streaming_sparse_attention.sink_size: 0 is not a whole number of at least 1",
    ),
    (
        {"streaming_sparse_attention": STREAMING | {"head_score": "x"}},
        "streaming_sparse_attention.head_score: is not served",
    ),
    ({"streaming_sparse_attention": True}, "streaming_sparse_attention: True is not an object"),
]


@pytest.mark.parametrize(("changes", "expected"), FIELDS)
def test_fields(changes: dict[str, Any], expected: str) -> None:
    assert config_error(**changes) == expected


ROPE = [
    ({"rope_type": "linear", "factor": 2}, ".rope_type: 'linear' is not served, only default, yarn, deepseek_yarn"),
    (YARN | {"factor": None}, ".factor: is missing"),
    (YARN | {"original_max_position_embeddings": 1.5}, ".original_max_position_embeddings: 1.5 is not a whole number"),
    (YARN | {"factor": -1}, ".factor: -1 is not a number from 1e-12 to 1e+12"),
    (YARN | {"low_freq_factor": 1}, ".low_freq_factor: is not known for rope type 'yarn'"),
    ({"rope_type": "default", "factor": 2}, ".factor: is not known for rope type 'default'"),
    (YARN | {"truncate": 1}, ".truncate: 1 is not true or false"),
    (
        YARN | {"type": "deepseek_yarn", "attention_factor": 1.0},
        ".attention_factor: is not known for rope type 'deepseek_yarn'",
    ),
    (YARN | {"partial_rotary_factor": 0.5}, ".partial_rotary_factor: only 1 is served: all rope dims rotate"),
    (YARN | {"rope_theta": 5.0}, ": rope_theta 5.0 contradicts 10000.0"),
    (YARN | {"type": "yarn", "rope_type": "default"}, None),
    ("yarn", ": 'yarn' is not an object"),
]


@pytest.mark.parametrize(("scaling", "expected"), ROPE)
def test_rope_fields(scaling: Any, expected: str | None) -> None:
    message = config_error(rope_scaling=scaling)
    assert message == f"rope_scaling{expected}" if expected else "rope_type" in message


def test_yarn_scales() -> None:
    """Ten times the length, as published, gives 1.5135 on the scores, 120 times 2.1867; the table stays."""
    for factor, expected in ((10, 1.5135), (120, 2.1867)):
        both = {"mscale": 1, "mscale_all_dim": 1}
        for kind in ("yarn", "deepseek_yarn"):
            yarn = config_of(rope_scaling=YARN | both | {"type": kind, "factor": factor}).rope.yarn
            assert yarn is not None
            assert yarn.softmax_scale == pytest.approx(expected, abs=1e-4)
            assert yarn.table_scale == 1.0
    assert config_of(rope_scaling=YARN).rope == Rope(
        theta=10000.0,
        yarn=Yarn(factor=10.0, original_max_position_embeddings=64, table_scale=0.1 * math.log(10) + 1),
    )
    given = config_of(rope_theta=ABSENT, rope_parameters=YARN | {"rope_theta": 5e6, "attention_factor": 2.0}).rope
    assert given.theta == 5e6
    assert given.yarn is not None
    assert given.yarn.table_scale == 2.0


def test_config_in_the_newer_spelling() -> None:
    rope = {"rope_type": "default", "rope_theta": 5e6}
    config = config_of(
        rope_theta=ABSENT, rope_parameters=rope, dtype="float32", eos_token_id=[2, 7], rope_scaling=None, qk_head_dim=24
    )
    assert (config.rope.theta, config.torch_dtype, config.eos_ids) == (5e6, "float32", frozenset({2, 7}))
    assert (config.kv_scale, config.latent, config.num_gate_outputs) == (math.sqrt(2), 40, 12)


def test_scale_flags_are_obeyed() -> None:
    config = config_of(mla_scale_q_lora=False, mla_scale_kv_lora=False)
    assert (config.q_scale, config.kv_scale) == (1.0, 1.0)


def test_ngram_tables() -> None:
    ngram = config_of(**NGRAM).ngram
    assert ngram is not None
    assert [ngram.rows(table) for table in range(ngram.tables)] == [961, 963, 965, 967]
    assert ngram.width == 16
    assert ngram.multipliers(3) == (1, 320, 320 * 320 % 967)
    assert ngram.multipliers(0) == (1, 320, 0)
    ids = [5, 2, 6, 7, 2, 8]  # 2 ends a context
    assert [ngram.before(ids, i) for i in range(6)] == [(0, 0), (5, 0), (0, 0), (6, 0), (7, 6), (0, 0)]
