"""Chat completions through the official client, over HTTP, against a worker with scripted answers."""

from __future__ import annotations

import json
from typing import Any

import grpc
import httpx2
import openai
import pytest
from support.fake_attention import answers_with
from support.gateway_assets import EOS
from support.gateway_harness import MODEL, Harness

HI: list[Any] = [{"role": "user", "content": "hi"}]
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
        },
    }
]
JSON_CALL = (
    '<longcat_tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "days": 2}}\n</longcat_tool_call>'
)
XML_CALL = (
    "<longcat_tool_call>get_weather\n<longcat_arg_key>city</longcat_arg_key>\n<longcat_arg_value>7</longcat_arg_value>\n"
    "<longcat_arg_key>days</longcat_arg_key><longcat_arg_value>2</longcat_arg_value>\n</longcat_tool_call>"
)


def set_answer(router: Harness, text: str, **options: Any) -> None:
    router.fakes[0].script = answers_with(router.ids(text), eos=EOS, **options)


def test_whole_answer(router: Harness) -> None:
    set_answer(router, "naïve 猫 🐈 café")
    answer = router.client().chat.completions.create(model=MODEL, messages=HI, seed=7, temperature=0.5, top_p=0.9)
    assert answer.choices[0].message.content == "naïve 猫 🐈 café"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.system_fingerprint == "caracal-fake"
    sent = router.fakes[0].requests[0]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(sent.prompt_ids)
    assert answer.usage.completion_tokens == len(router.ids("naïve 猫 🐈 café")) + 1
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert (sent.attempt, sent.sampling.seed, sent.sampling.temperature) == (1, 7, 0.5)
    assert sent.sampling.top_p == pytest.approx(0.9)
    assert router.assets.tokenizer.decode(list(sent.prompt_ids)) == "[Round 0] USER:hi ASSISTANT:"


@pytest.mark.parametrize("chunk", [1, 2, 50])
def test_streamed_answer(router: Harness, chunk: int) -> None:
    set_answer(router, "naïve 猫 🐈 café", chunk=chunk)
    chunks = list(
        router.client().chat.completions.create(
            model=MODEL, messages=HI, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "naïve 猫 🐈 café"
    assert all("\ufffd" not in (c.choices[0].delta.content or "") for c in chunks if c.choices)
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert [c.usage is not None for c in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == len(router.ids("naïve 猫 🐈 café")) + 1
    assert len({c.id for c in chunks}) == 1
    assert {c.system_fingerprint for c in chunks} == {"caracal-fake"}


@pytest.mark.parametrize("details", [{}, {"logprobs": True}])
def test_usage_in_each_chunk(router: Harness, details: Any) -> None:
    set_answer(router, "naïve 猫 🐈 café")
    options: Any = {"include_usage": True, "continuous_usage_stats": True}
    *chunks, last = router.client().chat.completions.create(
        model=MODEL, messages=HI, stream=True, stream_options=options, **details
    )
    counts = [chunk.usage.completion_tokens for chunk in chunks if chunk.usage]
    assert len(counts) == len(chunks)
    assert counts == sorted(counts)
    assert counts[0] < counts[-1] == len(router.ids("naïve 猫 🐈 café")) + 1
    assert chunks[-1].usage == last.usage
    assert {chunk.usage.prompt_tokens for chunk in chunks if chunk.usage} == {
        len(router.fakes[0].requests[0].prompt_ids)
    }


def test_stream_headers(router: Harness) -> None:
    raw = router.client().chat.completions.with_raw_response.create(
        model=MODEL, messages=HI, stream=True, extra_headers={"x-request-id": "from-me.1"}
    )
    assert raw.headers["content-type"].startswith("text/event-stream")
    assert raw.headers["cache-control"] == "no-cache"
    assert raw.headers["x-accel-buffering"] == "no"
    assert raw.headers["x-request-id"] == "from-me.1"
    assert router.fakes[0].requests[0].request_id.startswith("from-me.1")
    list(raw.parse())


def test_every_response_has_a_request_id(router: Harness) -> None:
    raw = router.client().models.with_raw_response.list()
    assert len(raw.headers["x-request-id"]) == 32
    bad = router.client().models.with_raw_response.list(extra_headers={"x-request-id": "a b\tc"})
    assert len(bad.headers["x-request-id"]) == 32


@pytest.mark.parametrize("stream", [False, True])
def test_n_choices_have_their_own_seeds(router: Harness, stream: bool) -> None:
    client = router.client()
    if stream:
        texts: dict[int, str] = {}
        for chunk in client.chat.completions.create(model=MODEL, messages=HI, n=3, seed=5, stream=True):
            for choice in chunk.choices:
                texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
        assert texts == dict.fromkeys(range(3), "hello world")
    else:
        answer = client.chat.completions.create(model=MODEL, messages=HI, n=3, seed=5)
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 3 * (len(router.ids("hello world")) + 1)
        assert answer.usage.prompt_tokens == len(router.fakes[0].requests[0].prompt_ids)
    seeds = {request.request_id[-1]: request.sampling.seed for request in router.fakes[0].requests}
    assert seeds["0"] == 5
    assert len(set(seeds.values())) == 3


def test_a_random_seed_is_used_when_none_is_given(router: Harness) -> None:
    for _ in range(4):
        router.client().chat.completions.create(model=MODEL, messages=HI)
    seeds = [request.sampling.seed for request in router.fakes[0].requests]
    assert len(set(seeds)) == 4
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_logprobs(router: Harness) -> None:
    set_answer(router, "猫!")
    answer = router.client().chat.completions.create(model=MODEL, messages=HI, logprobs=True, top_logprobs=2)
    assert answer.choices[0].logprobs is not None
    content = answer.choices[0].logprobs.content
    assert content is not None
    ids = [*router.ids("猫!"), EOS]
    assert [entry.logprob for entry in content] == pytest.approx([-i / 1000 for i in ids])
    assert b"".join(bytes(entry.bytes or []) for entry in content) == "猫!</longcat_s>".encode()
    assert [len(entry.top_logprobs) for entry in content] == [2] * len(ids)
    streamed = []
    for chunk in router.client().chat.completions.create(model=MODEL, messages=HI, logprobs=True, stream=True):
        if chunk.choices[0].logprobs is not None:
            streamed += chunk.choices[0].logprobs.content or []
    assert [entry.bytes for entry in streamed] == [entry.bytes for entry in content]


def test_max_tokens_cuts_with_length(router: Harness) -> None:
    for field in ("max_tokens", "max_completion_tokens"):
        limit: dict[str, Any] = {field: 1}
        answer = router.client().chat.completions.create(model=MODEL, messages=HI, **limit)
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 1


def test_extensions_reach_the_worker(router: Harness) -> None:
    extra = {
        "top_k": 7,
        "min_p": 0.25,
        "repetition_penalty": 1.5,
        "min_tokens": 2,
        "ignore_eos": True,
        "stop_token_ids": [9, 8],
        "return_token_ids": True,
    }
    answer = router.client().chat.completions.create(
        model=MODEL,
        messages=HI,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        logit_bias={"12": -3},
        max_tokens=20,
        extra_body=extra,
    )
    sampling = router.fakes[0].requests[0].sampling
    assert (sampling.top_k, sampling.min_p, sampling.repetition_penalty) == (7, 0.25, 1.5)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.5, -0.5)
    assert (sampling.min_tokens, sampling.max_tokens, sampling.ignore_eos) == (2, 20, True)
    assert list(sampling.stop_ids) == [8, 9]
    assert dict(sampling.logit_bias) == {12: -3.0}
    assert answer.choices[0].model_extra is not None
    assert answer.choices[0].model_extra["token_ids"] == [*router.ids("hello world"), EOS]


@pytest.mark.parametrize("call", [JSON_CALL, XML_CALL], ids=["json", "xml"])
@pytest.mark.parametrize("stream", [False, True])
def test_tool_calls(router: Harness, call: str, stream: bool) -> None:
    set_answer(router, "Let me look.\n" + call + "\n" + call)
    city = "Paris" if call is JSON_CALL else "7"
    expected = {"city": city, "days": 2}
    client = router.client()
    if stream:
        with client.chat.completions.stream(model=MODEL, messages=HI, tools=TOOLS) as events:
            choice = events.get_final_completion().choices[0]
    else:
        choice = client.chat.completions.create(model=MODEL, messages=HI, tools=TOOLS).choices[0]  # type: ignore[assignment]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me look.\n"
    calls = choice.message.tool_calls or []
    assert [one.function.name for one in calls if one.type == "function"] == ["get_weather"] * 2
    arguments = [json.loads(one.function.arguments) for one in calls if one.type == "function"]
    assert arguments == [expected, expected]
    assert len({one.id for one in calls}) == 2


def test_tool_choice_none_hides_the_tools(router: Harness) -> None:
    set_answer(router, JSON_CALL)
    answer = router.client().chat.completions.create(model=MODEL, messages=HI, tools=TOOLS, tool_choice="none")
    assert "## Tools" not in router.assets.tokenizer.decode(list(router.fakes[0].requests[0].prompt_ids))
    assert answer.choices[0].finish_reason == "stop"
    assert not answer.choices[0].message.tool_calls


def test_tool_results_go_back_through_the_template(router: Harness) -> None:
    messages: list[Any] = [
        *HI,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "猫"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "sunny"}]},
    ]
    router.client().chat.completions.create(model=MODEL, messages=messages, tools=TOOLS)
    prompt = router.assets.tokenizer.decode(list(router.fakes[0].requests[0].prompt_ids), skip_special_tokens=False)
    assert '{"name": "get_weather", "arguments": {"city": "猫"}}' in prompt
    assert prompt.endswith(" TOOL:sunny ASSISTANT:")


@pytest.mark.parametrize("stream", [False, True])
def test_reasoning(router: Harness, stream: bool) -> None:
    set_answer(router, "<longcat_think>\nhmm, a < b\n</longcat_think>\n\nIt is 4.")
    if stream:
        message = {"reasoning": "", "reasoning_content": "", "content": ""}
        for chunk in router.client().chat.completions.create(model=MODEL, messages=HI, stream=True):
            for field, value in chunk.choices[0].delta.model_dump(exclude_none=True).items():
                if field in message:
                    message[field] += value
    else:
        message = router.client().chat.completions.create(model=MODEL, messages=HI).choices[0].message.model_dump()
    assert message["reasoning"] == message["reasoning_content"] == "hmm, a < b"
    assert message["content"] == "It is 4."


def test_control_tokens_typed_by_users_stay_text(router: Harness) -> None:
    router.client().chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "a</longcat_s>b<longcat_s>"}]
    )
    ids = list(router.fakes[0].requests[0].prompt_ids)
    assert EOS not in ids
    assert router.assets.tokenizer.decode(ids) == "[Round 0] USER:a</longcat_s>b<longcat_s> ASSISTANT:"


def test_developer_messages_become_system_messages(router: Harness) -> None:
    router.client().chat.completions.create(model=MODEL, messages=[{"role": "developer", "content": "be brief"}, *HI])
    prompt = router.assets.tokenizer.decode(list(router.fakes[0].requests[0].prompt_ids))
    assert prompt.startswith("SYSTEM:be brief ")


@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings(router: Harness, stream: bool) -> None:
    set_answer(router, "one two three four")
    client = router.client()
    options: dict[str, Any] = {"model": MODEL, "messages": HI, "stop": ["o th", "zzz"]}
    if stream:
        chunks = list(client.chat.completions.create(**options, stream=True))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert chunks[-1].choices[0].finish_reason == "stop"
    else:
        text = client.chat.completions.create(**options).choices[0].message.content or ""
    assert text == "one tw"
    included = client.chat.completions.create(**options, extra_body={"include_stop_str_in_output": True})
    assert included.choices[0].message.content == "one two th"


def test_an_error_after_the_stream_began_reaches_the_client(router: Harness) -> None:
    async def breaks(request: Any, context: Any) -> Any:
        async for event in answers_with(router.ids("hello"), finish="")(request, context):
            yield event
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no such thing")

    router.fakes[0].script = breaks
    seen: list[str] = []
    stream = router.client().chat.completions.create(model=MODEL, messages=HI, stream=True)
    with pytest.raises(openai.APIError) as caught:
        seen.extend(chunk.choices[0].delta.content or "" for chunk in stream)
    assert "".join(seen) == "hello"
    assert caught.value.code == "rejected_by_worker"


def test_a_broken_stream_ends_with_an_error_event_and_done(router: Harness) -> None:
    async def breaks(request: Any, context: Any) -> Any:
        async for event in answers_with(router.ids("hello"), finish="")(request, context):
            yield event
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no such thing")

    router.fakes[0].script = breaks
    body = {"model": MODEL, "messages": HI, "stream": True}
    lines = httpx2.post(router.url + "/v1/chat/completions", json=body).text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    assert json.loads(lines[-3].removeprefix("data: "))["error"]["code"] == "rejected_by_worker"
    assert not any('finish_reason":"' in line for line in lines)


def test_top_p_0_is_greedy(router: Harness) -> None:
    router.client().chat.completions.create(model=MODEL, messages=HI, temperature=1.5, top_p=0)
    sampling = router.fakes[0].requests[-1].sampling
    assert (sampling.temperature, sampling.top_p) == (0, 1)


def test_seed_minus_1_is_any_seed(router: Harness) -> None:
    for _ in range(2):
        router.client().chat.completions.create(model=MODEL, messages=HI, seed=-1, temperature=1.5)
    first, second = (request.sampling.seed for request in router.fakes[0].requests[-2:])
    assert first != second
