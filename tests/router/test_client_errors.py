"""Each invalid request gives the official client the exception of its kind, with code and param."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from support.fake_attention import FakeAttention, answers_with
from support.gateway_assets import CONTEXT, EOS, write_assets
from support.gateway_harness import MODEL, Harness

F = {"type": "function", "function": {"name": "f"}}
HI: list[Any] = [{"role": "user", "content": "hi"}]


def test_unknown_model(router: Harness) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        router.client().chat.completions.create(model="../etc/passwd", messages=HI)
    assert caught.value.code == "model_not_found"
    assert "passwd" not in str(caught.value.body)
    with pytest.raises(openai.NotFoundError):
        router.client().models.retrieve("gpt-4")


def test_a_prompt_that_is_too_long_gets_the_counts(router: Harness) -> None:
    with pytest.raises(openai.BadRequestError, match=rf"{CONTEXT} tokens.*{CONTEXT + 8} in the prompt") as caught:
        router.client().completions.create(model=MODEL, prompt=[5] * (CONTEXT + 8))
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "prompt")


def test_prompt_and_max_tokens_beyond_the_context_get_the_counts(router: Harness) -> None:
    with pytest.raises(openai.BadRequestError, match=r"500 in the prompt and 13 to generate") as caught:
        router.client().completions.create(model=MODEL, prompt=[5] * 500, max_tokens=13)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "max_tokens")
    assert router.client().completions.create(model=MODEL, prompt=[5] * 500, max_tokens=12).choices


def test_the_worker_may_have_a_shorter_context_than_the_model(assets_path: Path) -> None:
    fake = FakeAttention(answers_with([70], eos=EOS), max_model_len=100)
    with Harness(assets_path, fake) as harness:
        assert harness.client().models.retrieve(MODEL).model_extra["max_model_len"] == 100  # type: ignore[index]
        with pytest.raises(openai.BadRequestError, match=r"context length is 100 tokens.*CARACAL_MAX_MODEL_LEN allows"):
            harness.client().completions.create(model=MODEL, prompt=[5] * 99, max_tokens=2)


@pytest.mark.parametrize("model_len", [0, 64, 300], ids=["unset", "of the cache", "beyond the cache"])
def test_a_cache_that_is_too_small_is_named_with_its_setting(assets_path: Path, model_len: int) -> None:
    fake = FakeAttention(answers_with([70], eos=EOS), max_model_len=model_len, kv_pages=1)
    with Harness(assets_path, fake) as harness:
        client = harness.client()
        for prompt in ([5] * 70, "ab " * 40_000):
            with pytest.raises(openai.BadRequestError, match=r"length is 64 tokens.*\(--kv-pages, CARACAL_KV_PAGES\)"):
                client.completions.create(model=MODEL, prompt=prompt)
        assert client.completions.create(model=MODEL, prompt=[5] * 60, max_tokens=4).choices


def test_the_models_own_context_is_no_matter_of_settings(assets_path: Path) -> None:
    fake = FakeAttention(answers_with([70], eos=EOS), max_model_len=CONTEXT, kv_pages=1000)
    with Harness(assets_path, fake) as harness:
        with pytest.raises(openai.BadRequestError) as caught:
            harness.client().completions.create(model=MODEL, prompt=[5] * (CONTEXT + 8))
        assert "CARACAL" not in caught.value.message


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "n_zero": ({"n": 0}, "n"),
    "n_nine": ({"n": 9}, "n"),
    "n_huge": ({"n": 10**9}, "n"),
    "max_tokens_negative": ({"max_tokens": -1}, "max_tokens"),
    "max_tokens_huge": ({"max_tokens": 2**63}, "max_tokens"),
    "max_tokens_float": ({"max_tokens": 1.5}, "max_tokens"),
    "max_tokens_text": ({"max_tokens": "10"}, "max_tokens"),
    "max_tokens_bool": ({"max_tokens": True}, "max_tokens"),
    "temperature_negative": ({"temperature": -0.1}, "temperature"),
    "temperature_huge": ({"temperature": 1e9}, "temperature"),
    "temperature_text": ({"temperature": "warm"}, "temperature"),
    "temperature_bool": ({"temperature": True}, "temperature"),
    "top_p_two": ({"top_p": 2}, "top_p"),
    "top_k_negative": ({"top_k": -5}, "top_k"),
    "min_p": ({"min_p": 1.5}, "min_p"),
    "presence_penalty": ({"presence_penalty": 1e30}, "presence_penalty"),
    "frequency_penalty": ({"frequency_penalty": -2.5}, "frequency_penalty"),
    "repetition_penalty": ({"repetition_penalty": 0}, "repetition_penalty"),
    "seed_huge": ({"seed": 2**70}, "seed"),
    "seed_float": ({"seed": 0.5}, "seed"),
    "logit_bias_key": ({"logit_bias": {"cat": 1}}, "logit_bias"),
    "logit_bias_outside": ({"logit_bias": {"99999": 1}}, "logit_bias"),
    "logit_bias_value": ({"logit_bias": {"1": 101}}, "logit_bias"),
    "logit_bias_many": ({"logit_bias": {str(i): 0 for i in range(301)}}, "logit_bias"),
    "stop_many": ({"stop": ["a"] * 65}, "stop"),
    "stop_empty": ({"stop": [""]}, "stop"),
    "stop_long": ({"stop": "猫" * 86}, "stop"),
    "stop_number": ({"stop": 3}, "stop"),
    "stop_ids_outside": ({"stop_token_ids": [10**6]}, "stop_token_ids"),
    "min_above_max": ({"min_tokens": 5, "max_tokens": 4}, "min_tokens"),
    "stream_text": ({"stream": "yes"}, "stream"),
    "best_of": ({"best_of": 4}, "best_of"),
    "response_format": ({"response_format": {"type": "yaml"}}, "response_format.type"),
    "schema_missing": ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    "structural_tag": ({"response_format": {"type": "structural_tag", "structures": []}}, "response_format.type"),
    "structural_tag_of_vllm": ({"structured_outputs": {"structural_tag": "{}"}}, "structured_outputs.structural_tag"),
    "schema_needless": ({"response_format": {"type": "text", "json_schema": {}}}, "response_format.json_schema"),
    "schema_unknown_field": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "shema": {}}}},
        "response_format.json_schema.shema",
    ),
    "two_formats": (
        {"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}},
        "structured_outputs.regex",
    ),
    "two_kinds": ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs.choice"),
    "two_older_kinds": ({"guided_regex": "a", "guided_grammar": "start: A"}, "guided_grammar"),
    "two_spellings": ({"guided_regex": "a", "structured_outputs": {"choice": ["b"]}}, "guided_regex"),
    "older_format": ({"response_format": {"type": "json_object"}, "guided_choice": ["a"]}, "guided_choice"),
    "no_choice": ({"guided_choice": []}, "guided_choice"),
    "white_space_of_text": (
        {"structured_outputs": {"regex": "a", "whitespace_pattern": " "}},
        "structured_outputs.whitespace_pattern",
    ),
    "white_space_of_older_text": ({"guided_regex": "a", "guided_whitespace_pattern": " "}, "guided_whitespace_pattern"),
    "schema_text": ({"guided_json": "{"}, "guided_json"),
    "schema_text_newer": ({"structured_outputs": {"json": "[1]"}}, "structured_outputs.json"),
    "gbnf": ({"guided_grammar": "root ::= ["}, "guided_grammar"),
    "lark_extend": ({"structured_outputs": {"grammar": "start: A\n%extend A: B"}}, "structured_outputs.grammar"),
    "stream_options_alone": ({"stream_options": {"include_usage": True}}, "stream_options"),
    "stream_options_false": ({"stream_options": {}, "stream": False}, "stream_options"),
    "scores_of_a_stream": ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
    "format_min_tokens": ({"guided_regex": "a", "min_tokens": 2}, "min_tokens"),
    "format_ignore_eos": ({"response_format": {"type": "json_object"}, "ignore_eos": True}, "ignore_eos"),
    "allowed_outside": ({"allowed_token_ids": [10**6]}, "allowed_token_ids"),
    "allowed_none": ({"allowed_token_ids": []}, "allowed_token_ids"),
    "bad_word_long": ({"bad_words": ["x" * 257]}, "bad_words[0]"),
    "white_space_twice": (
        {"structured_outputs": {"json": {}, "whitespace_pattern": " ", "disable_any_whitespace": True}},
        "structured_outputs.disable_any_whitespace",
    ),
    "bad_word_empty": ({"bad_words": [""]}, "bad_words[0]"),
    "prompt_logprobs_many": ({"prompt_logprobs": 21}, "prompt_logprobs"),
    "chat_template": ({"chat_template": "{{ 1 }}"}, "chat_template"),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("api", ["chat/completions", "completions"])
def test_bad_values(router: Harness, name: str, api: str) -> None:
    fields, param = CASES[name]
    body = {"model": MODEL, **({"messages": HI} if api.startswith("chat") else {"prompt": "a"}), **fields}
    with pytest.raises(openai.BadRequestError) as caught:
        router.client().post(f"/{api}", body=body, cast_to=dict[str, Any])
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"
    assert not router.fakes[0].requests


CHAT_CASES: dict[str, tuple[dict[str, Any], str]] = {
    "no_messages": ({}, "messages"),
    "empty_messages": ({"messages": []}, "messages"),
    "messages_text": ({"messages": "hi"}, "messages"),
    "role": ({"messages": [{"role": "cat", "content": "hi"}]}, "messages[0].role"),
    "no_content": ({"messages": [{"role": "user"}]}, "messages[0].content"),
    "content_number": ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content"),
    "forced_regex": (
        {"messages": HI, "tools": [F], "tool_choice": "required", "guided_regex": "a"},
        "guided_regex",
    ),
    "tool_schema": (
        {
            "messages": HI,
            "tools": [F, {"type": "function", "function": {"name": "g", "parameters": {"type": "array"}}}],
            "tool_choice": "required",
        },
        "tools[1].function.parameters",
    ),
    "image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc"}}]}]},
        "messages[0].content",
    ),
    "top_logprobs_alone": ({"messages": HI, "top_logprobs": 2}, "top_logprobs"),
    "top_logprobs_many": ({"messages": HI, "logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    "logprobs_number": ({"messages": HI, "logprobs": 3}, "logprobs"),
    "tool_choice_alone": ({"messages": HI, "tool_choice": "required"}, "tool_choice"),
    "max_tokens_zero": ({"messages": HI, "max_tokens": 0}, "max_tokens"),
    "tool_choice_missing": (
        {"messages": HI, "tool_choice": {"type": "function", "function": {"name": "g"}}, "tools": [F]},
        "tool_choice",
    ),
    "tool_choice_not_allowed": (
        {
            "messages": HI,
            "tools": [F],
            "tool_choice": {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "g"}}]},
            },
        },
        "tool_choice",
    ),
    "budgets": ({"messages": HI, "thinking_budget": 3, "thinking_token_budget": 4}, "thinking_token_budget"),
    "forced_min_tokens": ({"messages": HI, "tools": [F], "tool_choice": "required", "min_tokens": 3}, "min_tokens"),
    "forced_ignore_eos": ({"messages": HI, "tools": [F], "tool_choice": "required", "ignore_eos": True}, "ignore_eos"),
    "continued_format": (
        {
            "messages": [*HI, {"role": "assistant", "content": "{"}],
            "continue_final_message": True,
            "response_format": {"type": "json_object"},
        },
        "continue_final_message",
    ),
    "continued_user": ({"messages": HI, "continue_final_message": True}, "continue_final_message"),
    "continued_twice": (
        {
            "messages": [*HI, {"role": "assistant", "content": "a"}],
            "continue_final_message": True,
            "add_generation_prompt": True,
        },
        "continue_final_message",
    ),
    "tool_without_name": ({"messages": HI, "tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
    "tool_bad_name": (
        {"messages": HI, "tools": [{"type": "function", "function": {"name": "a b"}}]},
        "tools[0].function.name",
    ),
}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"min_tokens": 2, "guided_regex": "a+"}, "min_tokens"),
        ({"ignore_eos": True, "response_format": {"type": "json_object"}}, "ignore_eos"),
        ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
        ({"guided_regex": "a", "structured_outputs": {"choice": ["b"]}}, "guided_"),
    ],
)
def test_fields_that_exclude_each_other_are_named(router: Harness, fields: dict[str, Any], named: str) -> None:
    with pytest.raises(openai.BadRequestError, match=named):
        router.client().post("/completions", body={"model": MODEL, "prompt": "a", **fields}, cast_to=dict[str, Any])


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"n": 129}, "129"),
        ({"temperature": 9}, "9"),
        ({"seed": "abc"}, "'abc'"),
        ({"model": "gpt-4"}, "'gpt-4'"),
        ({"stream": "yes"}, "'yes'"),
    ],
)
def test_an_error_shows_the_invalid_value_if_it_is_short(router: Harness, fields: dict[str, Any], shown: str) -> None:
    with pytest.raises(openai.APIStatusError, match=shown):
        router.client().post("/completions", body={"model": MODEL, "prompt": "a", **fields}, cast_to=dict[str, Any])


@pytest.mark.parametrize("field", ["prefix", "partial", "audio", "refusal"])
def test_what_other_servers_take_in_a_message_is_rejected_by_name(router: Harness, field: str) -> None:
    for value, status in ((True, 400), ({"id": "1"}, 400), (None, 200), (False, 200)):
        messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "a", field: value}]
        answer = httpx2.post(router.url + "/v1/chat/completions", json={"model": MODEL, "messages": messages})
        assert answer.status_code == status
        if status == 400:
            assert answer.json()["error"]["param"] == f"messages[1].{field}"


@pytest.mark.parametrize("name", CHAT_CASES)
def test_bad_chats(router: Harness, name: str) -> None:
    fields, param = CHAT_CASES[name]
    with pytest.raises(openai.BadRequestError) as caught:
        router.client().post("/chat/completions", body={"model": MODEL, **fields}, cast_to=dict[str, Any])
    assert caught.value.param == param
    assert "file:///etc" not in str(caught.value.body)


PROMPTS: dict[str, Any] = {
    "empty": "",
    "empty_list": [],
    "empty_text_in_list": ["a", ""],
    "empty_ids_in_list": [[5], []],
    "number": 5,
    "null": None,
    "negative_id": [5, -1],
    "id_outside": [10**6],
    "float_id": [1.5],
    "bool_id": [True],
    "nested": [[[5]]],
    "mixed": ["a", 5],
    "many": ["a"] * 129,
}


@pytest.mark.parametrize("name", PROMPTS)
def test_bad_prompts(router: Harness, name: str) -> None:
    body = {"model": MODEL, "prompt": PROMPTS[name]}
    with pytest.raises(openai.BadRequestError) as caught:
        router.client().post("/completions", body=body, cast_to=dict[str, Any])
    assert (caught.value.param or "").startswith("prompt")


def test_the_template_may_raise(router: Harness) -> None:
    with pytest.raises(openai.BadRequestError, match="no boom") as caught:
        router.client().chat.completions.create(
            model=MODEL, messages=[{"role": "tool", "content": "x", "tool_call_id": "a"}]
        )
    assert caught.value.param == "messages"


def test_no_template_means_no_chat(tmp_path: Path) -> None:
    with Harness(
        write_assets(tmp_path / "plain", template=None), FakeAttention(answers_with([70], eos=EOS))
    ) as harness:
        with pytest.raises(openai.BadRequestError, match="no chat template"):
            harness.client().chat.completions.create(model=MODEL, messages=HI)
        assert harness.client().completions.create(model=MODEL, prompt="a").choices


def test_no_worker(assets_path: Path) -> None:
    with Harness(assets_path) as harness:
        with pytest.raises(openai.InternalServerError) as caught:
            harness.client().chat.completions.create(model=MODEL, messages=HI)
        assert caught.value.status_code == 503
        assert caught.value.code == "no_worker"
        assert caught.value.response.headers["retry-after"] == "1"


@pytest.mark.parametrize("field", ["temperature", "top_p", "frequency_penalty"])
@pytest.mark.parametrize("value", ["hot", True, [1]])
def test_a_float_field_of_the_wrong_type_is_not_called_an_integer(router: Harness, field: str, value: object) -> None:
    with pytest.raises(openai.BadRequestError, match=f"{field}: Input should be a valid number") as caught:
        router.client().post("/completions", body={"prompt": "a", field: value}, cast_to=dict[str, Any])
    assert (caught.value.code, caught.value.param) == ("invalid_type", field)
