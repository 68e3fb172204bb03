"""Completions through the official client: the four prompt forms, echo, logprobs, streams."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from support.fake_attention import answers_with
from support.gateway_assets import BOS, EOS
from support.gateway_harness import MODEL, Harness


@pytest.mark.parametrize(
    ("prompt", "count"), [("hello", 1), (["hello", "world"], 2), ([5, 6, 7], 1), ([[5, 6], [7]], 2)]
)
def test_prompt_forms(router: Harness, prompt: Any, count: int) -> None:
    answer = router.client().completions.create(model=MODEL, prompt=prompt, n=2, max_tokens=40)
    assert [choice.index for choice in answer.choices] == list(range(2 * count))
    assert {choice.text for choice in answer.choices} == {"hello world"}
    sent = {tuple(request.prompt_ids) for request in router.fakes[0].requests}
    if isinstance(prompt, str) or isinstance(prompt[0], str):
        texts = [prompt] if isinstance(prompt, str) else prompt
        assert sent == {(BOS, *router.ids(text)) for text in texts}
    else:
        assert sent == {tuple(ids) for ids in ([prompt] if count == 1 else prompt)}
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == sum(map(len, sent))
    assert answer.usage.completion_tokens == 2 * count * (len(router.ids("hello world")) + 1)


def test_sixteen_tokens_by_default(router: Harness) -> None:
    router.fakes[0].script = answers_with(router.ids("x" * 40))
    answer = router.client().completions.create(model=MODEL, prompt="a")
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 16


@pytest.mark.parametrize("stream", [False, True])
def test_echo(router: Harness, stream: bool) -> None:
    options: dict[str, Any] = {"model": MODEL, "prompt": ["naïve ", "猫 "], "echo": True}
    texts = ["", ""]
    if stream:
        for chunk in router.client().completions.create(**options, stream=True):
            texts[chunk.choices[0].index] += chunk.choices[0].text
    else:
        texts = [choice.text for choice in router.client().completions.create(**options).choices]
    assert texts == ["naïve hello world", "猫 hello world"]


def test_logprobs_and_offsets(router: Harness) -> None:
    answer = router.client().completions.create(model=MODEL, prompt="a", logprobs=2)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    ids = [*router.ids("hello world"), EOS]
    assert logprobs.token_logprobs == pytest.approx([-i / 1000 for i in ids])
    assert logprobs.tokens is not None
    assert "".join(logprobs.tokens) == "hello world</longcat_s>"
    assert logprobs.text_offset == [len("".join(logprobs.tokens[:i])) for i in range(len(ids))]
    streamed = [
        chunk.choices[0].logprobs
        for chunk in router.client().completions.create(model=MODEL, prompt="a", logprobs=2, stream=True)
    ]
    assert [offset for part in streamed if part for offset in part.text_offset or []] == logprobs.text_offset


def test_streamed_completion(router: Harness) -> None:
    stream = router.client().completions.create(
        model=MODEL, prompt="a", stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == "hello world"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == len(router.ids("hello world")) + 1


def test_usage_in_each_chunk(router: Harness) -> None:
    """Each chunk counts its own choice, without the usage of all choices at the end if that is not asked for."""
    options: Any = {"continuous_usage_stats": True}
    chunks = list(router.client().completions.create(model=MODEL, prompt="a", n=2, stream=True, stream_options=options))
    for index in range(2):
        usages = [chunk.usage for chunk in chunks if chunk.choices[0].index == index]
        counts = [usage.completion_tokens for usage in usages if usage]
        assert len(counts) == len(usages)
        assert counts == sorted(counts)
        assert counts[-1] == len(router.ids("hello world")) + 1


def test_special_tokens_are_shown_on_demand(router: Harness) -> None:
    router.fakes[0].script = answers_with([*router.ids("a"), BOS, *router.ids("b")], eos=EOS)
    client = router.client()
    assert client.completions.create(model=MODEL, prompt="a").choices[0].text == "ab"
    shown = client.completions.create(model=MODEL, prompt="a", extra_body={"skip_special_tokens": False})
    assert shown.choices[0].text == "a<longcat_s>b"


def test_stop_token_text_is_shown_only_when_included(router: Harness) -> None:
    (stop_id,) = router.ids("z")
    router.fakes[0].script = answers_with(router.ids("ab"), eos=stop_id)
    client = router.client()
    hidden = client.completions.create(model=MODEL, prompt="a", extra_body={"stop_token_ids": [stop_id]})
    assert hidden.choices[0].text == "ab"
    assert hidden.choices[0].model_extra is not None
    assert hidden.choices[0].model_extra["stop_reason"] == stop_id
    extra = {"stop_token_ids": [stop_id], "include_stop_str_in_output": True}
    assert client.completions.create(model=MODEL, prompt="a", extra_body=extra).choices[0].text == "abz"


def test_stop_strings_wait_for_min_tokens(router: Harness) -> None:
    router.fakes[0].script = answers_with(router.ids("!a!a!a"), eos=EOS)
    count = len(router.ids("!a"))
    answer = router.client().completions.create(model=MODEL, prompt="a", stop="!", extra_body={"min_tokens": count})
    assert answer.choices[0].text == "!a"
    assert answer.choices[0].finish_reason == "stop"


def test_tokenize_and_detokenize_are_inverse(router: Harness) -> None:
    client = router.client().with_options(base_url=router.url)
    text = "naïve 猫 🐈"
    made = client.post("/tokenize", body={"prompt": text, "return_token_strs": True}, cast_to=dict[str, Any])
    assert made["tokens"][0] == BOS
    assert made["count"] == len(made["tokens"]) == len(made["token_strs"])
    assert made["max_model_len"] == 512
    back = client.post("/detokenize", body={"tokens": made["tokens"][1:]}, cast_to=dict[str, Any])
    assert back == {"prompt": text}
    chat = client.post("/tokenize", body={"messages": [{"role": "user", "content": "hi"}]}, cast_to=dict[str, Any])
    assert router.assets.tokenizer.decode(chat["tokens"]) == "[Round 0] USER:hi ASSISTANT:"


@pytest.mark.parametrize(("tokens", "kept"), [(2, 2), (50, 9), (-1, 9)])
def test_a_prompt_is_truncated_to_its_last_tokens(router: Harness, tokens: int, kept: int) -> None:
    prompt = list(range(10, 19))
    answer = router.client().completions.create(
        model=MODEL, prompt=prompt, extra_body={"truncate_prompt_tokens": tokens}
    )
    assert list(router.fakes[0].requests[-1].prompt_ids) == prompt[-kept:]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == kept


def test_a_prompt_beyond_the_context_is_truncated_to_fit(router: Harness) -> None:
    limit = router.client().models.retrieve(MODEL).model_extra["max_model_len"]  # type: ignore[index]
    prompt = [11] * (limit + 40)
    for extra, kept in (({"truncate_prompt_tokens": -1}, limit - 7), ({"truncate_prompt_tokens": 30}, 30)):
        router.client().completions.create(model=MODEL, prompt=prompt, max_tokens=7, extra_body=extra)
        assert len(router.fakes[0].requests[-1].prompt_ids) == kept
    with pytest.raises(openai.BadRequestError, match="maximum context length"):
        router.client().completions.create(model=MODEL, prompt=prompt, max_tokens=7)
