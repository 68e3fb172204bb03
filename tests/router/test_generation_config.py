"""generation_config.json: what ends an answer, and the sampling that holds unless a request says otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grpc
import pytest
from caracal_proto import attention_pb2, router_pb2, router_pb2_grpc
from support.fake_attention import FakeAttention, answers_with
from support.gateway_assets import CONTEXT, EOS, write_assets
from support.gateway_harness import MODEL, Harness

from services.router.requests.assets import ModelAssets
from services.router.requests.generation_config import GenerationConfig, SamplingDefaults
from services.router.requests.model_files import AssetError

HI: list[Any] = [{"role": "user", "content": "hi"}]
GIVEN = {
    "temperature": 0.25,
    "top_p": 0.5,
    "top_k": 7,
    "min_p": 0.125,
    "repetition_penalty": 1.5,
    "max_new_tokens": 9,
}


def written(folder: Path, raw: Any) -> Path:
    write_assets(folder)
    (folder / "generation_config.json").write_text(json.dumps(raw))
    return folder


def harness(folder: Path, raw: Any, *, sampling_defaults: bool = True) -> Harness:
    fake = FakeAttention(answers_with([70, 71, 72], eos=EOS))
    return Harness(written(folder, raw), fake, sampling_defaults=sampling_defaults)


def sampled(router: Harness, api: str = "chat/completions", **fields: Any) -> attention_pb2.Sampling:
    """Returns what the worker is asked for."""
    prompt = {"messages": HI} if api == "chat/completions" else {"prompt": "a"}
    router.client().post(f"/{api}", body={"model": MODEL, **prompt, **fields}, cast_to=dict[str, Any])
    return router.fakes[0].requests[-1].sampling


def test_defaults_hold_for_what_a_request_leaves_open(tmp_path: Path) -> None:
    with harness(tmp_path / "m", GIVEN) as router:
        got = sampled(router)
        assert (got.temperature, got.top_p, got.top_k, got.min_p) == (0.25, 0.5, 7, 0.125)
        assert (got.repetition_penalty, got.max_tokens) == (1.5, 9)
        got = sampled(router, temperature=0, top_p=1, top_k=-1, min_p=0, repetition_penalty=1, max_tokens=30)
        assert (got.temperature, got.top_p, got.top_k, got.min_p) == (0, 1, 0, 0)
        assert (got.repetition_penalty, got.max_tokens) == (1, 30)
        assert sampled(router, max_completion_tokens=11).max_tokens == 11
        assert sampled(router, min_tokens=12).max_tokens == 12
        got = sampled(router, "completions")
        assert (got.temperature, got.max_tokens) == (0.25, 9)


def test_over_grpc_too_for_what_is_not_set(tmp_path: Path) -> None:
    with harness(tmp_path / "m", GIVEN | {"eos_token_id": [EOS, 3]}) as router:
        with grpc.insecure_channel(f"127.0.0.1:{router.servers.grpc_port}") as channel:
            sampling = attention_pb2.Sampling(temperature=0.5)
            request = router_pb2.TextRequest(prompt="a", sampling=sampling)
            list(router_pb2_grpc.RouterStub(channel).Generate(request, timeout=20))
        got = router.fakes[0].requests[0].sampling
        assert (got.temperature, got.top_p, got.repetition_penalty, got.max_tokens) == (0.5, 0.5, 1.5, 9)
        assert (got.top_k, got.min_p, list(got.stop_ids)) == (0, 0, [3])


def test_a_limit_beyond_the_context_or_beyond_the_apis_own_is_none(tmp_path: Path) -> None:
    with harness(tmp_path / "m", {"max_new_tokens": 10**6}) as router:
        got = sampled(router)
        assert got.max_tokens == CONTEXT - len(router.fakes[0].requests[-1].prompt_ids)
        assert sampled(router, "completions").max_tokens == 16


def test_without_the_file_or_with_none_the_apis_defaults_hold(tmp_path: Path) -> None:
    with harness(tmp_path / "m", GIVEN, sampling_defaults=False) as router:
        got = sampled(router)
        assert (got.temperature, got.top_p, got.top_k, got.min_p, got.repetition_penalty) == (1, 1, 0, 0, 1)
        assert got.max_tokens == CONTEXT - len(router.fakes[0].requests[-1].prompt_ids)
    assert GenerationConfig.read(tmp_path) == GenerationConfig()


@pytest.mark.parametrize("sampling_defaults", [True, False])
def test_every_id_of_both_files_ends_an_answer(tmp_path: Path, sampling_defaults: bool) -> None:
    with harness(tmp_path / "m", {"eos_token_id": [EOS, 3, 7]}, sampling_defaults=sampling_defaults) as router:
        assert router.assets.eos_ids == {EOS, 3, 7}
        assert list(sampled(router).stop_ids) == [3, 7]  # the worker knows the id of config.json itself
        assert list(sampled(router, stop_token_ids=[9, 3]).stop_ids) == [3, 7, 9]
        assert list(sampled(router, ignore_eos=True, stop_token_ids=[9]).stop_ids) == [9]
        router.fakes[0].script = answers_with([70, 71], eos=3)
        answer = router.client().chat.completions.create(model=MODEL, messages=HI)
        assert answer.choices[0].finish_reason == "stop"
        assert answer.choices[0].model_extra == {"stop_reason": None}  # an end of the model's own, not a stop id
        assert answer.choices[0].message.content == router.assets.tokenizer.decode([70, 71])


def test_ids_of_config_json_still_end_an_answer(tmp_path: Path) -> None:
    assets = ModelAssets.load(written(tmp_path / "m", {"eos_token_id": 5}), "m")
    assert assets.eos_ids == {EOS, 5}
    assert assets.worker_eos_ids == {EOS}


def test_the_model_card_shows_them(tmp_path: Path) -> None:
    raw = GIVEN | {"eos_token_id": [3, EOS], "no_repeat_ngram_size": 3, "num_beams": 4, "use_cache": True}
    with harness(tmp_path / "m", raw) as router:
        (card,) = router.client().models.list().data
        assert card.model_extra is not None
        assert card.model_extra["generation_config"] == {
            "eos_token_id": [EOS, 3],
            **GIVEN,
            "not_applied": ["no_repeat_ngram_size", "num_beams"],
        }


@pytest.mark.parametrize(
    ("raw", "not_applied"),
    [
        ({"num_beams": 1, "typical_p": 1.0, "min_length": 0, "bad_words_ids": None, "suppress_tokens": []}, ()),
        ({"bos_token_id": 1, "pad_token_id": 3, "transformers_version": "5.0.0", "do_sample": True}, ()),
        ({"forced_eos_token_id": 0}, ("forced_eos_token_id",)),
        (
            {"stop_strings": ["x"], "min_new_tokens": 3, "max_length": 4096},
            ("max_length", "min_new_tokens", "stop_strings"),
        ),
        ({"invented": 1, "visual_generation_config": {"a": 1}}, ("invented", "visual_generation_config")),
    ],
)
def test_fields_that_would_change_answers_are_named(
    tmp_path: Path, raw: dict[str, Any], not_applied: tuple[str, ...]
) -> None:
    assert GenerationConfig.read(written(tmp_path / "m", raw)).not_applied == not_applied


@pytest.mark.parametrize("value", [0, 1, "false"])
def test_do_sample_is_true_or_false(tmp_path: Path, value: object) -> None:
    with pytest.raises(AssetError, match=rf"do_sample: {value!r} is not true or false; CARACAL_GENERATION_CONFIG=none"):
        GenerationConfig.read(written(tmp_path / "m", {"do_sample": value, "temperature": 0.7}))


def test_do_sample_false_is_greedy_as_in_transformers(tmp_path: Path) -> None:
    read = GenerationConfig.read(written(tmp_path / "m", {"do_sample": False, "temperature": 0.7}))
    assert read.defaults == SamplingDefaults(temperature=0.0)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"temperature": "hot"}, "temperature: 'hot' is not a number from 0 to 2"),
        ({"temperature": 3}, "temperature: 3 is not a number from 0 to 2"),
        ({"top_p": 0}, "top_p: 0 is not a number above 0 and at most 1"),
        ({"top_k": 1.5}, "top_k: 1.5 is not a whole number"),
        ({"min_p": True}, "min_p: True is not a number"),
        ({"repetition_penalty": 0}, "repetition_penalty: 0"),
        ({"max_new_tokens": 0}, "max_new_tokens: 0 is not a whole number of at least 1"),
        ({"eos_token_id": "2"}, "eos_token_id: '2' is not a token id"),
        ({"eos_token_id": [2, -1]}, "eos_token_id"),
        ({"eos_token_id": [2, 10**6]}, "eos_token_id: 1000000 lies outside the vocabulary"),
        ([1], "not a JSON object"),
    ],
    ids=range(11),
)
def test_a_bad_value_is_refused_with_file_and_field(tmp_path: Path, raw: Any, words: str) -> None:
    with pytest.raises(AssetError) as caught:
        ModelAssets.load(written(tmp_path / "m", raw), "m")
    assert str(caught.value).startswith(f"{tmp_path / 'm' / 'generation_config.json'}: ")
    assert words in str(caught.value)
