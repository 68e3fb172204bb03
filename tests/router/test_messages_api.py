"""POST /v1/messages through Anthropic's official client, over HTTP, against a worker with scripted answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import anthropic
import grpc
import httpx2
import pytest
from anthropic.types import RawMessageStreamEvent
from pydantic import TypeAdapter
from support.fake_attention import FakeAttention, answers_with
from support.gateway_assets import EOS, TEMPLATE, write_assets
from support.gateway_harness import MODEL, Harness

from services.router.gateway.messages_api.routes import MessagesClient
from services.router.gateway.streaming import keep_awake
from services.router.requests.errors import RouterError

EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
HI: list[Any] = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS: list[Any] = [{"name": "get_weather", "description": "the weather", "input_schema": SCHEMA}]
CALL = '<longcat_tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</longcat_tool_call>'
THOUGHT = "<longcat_think>so be it</longcat_think>"


@pytest.fixture(scope="module")
def thinking_router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    """A router whose template has a switch for thinking, and shows the reasoning of the history."""
    template = TEMPLATE.replace(
        "ASSISTANT:{{ message.content }}", "ASSISTANT:({{ message.reasoning }}){{ message.content }}"
    )
    template += "{%- if enable_thinking is defined and enable_thinking %} THINK{% endif %}"
    path = write_assets(tmp_path_factory.mktemp("thinking") / "model", template=template)
    with Harness(path, FakeAttention(answers_with([70], eos=EOS))) as harness:
        yield harness


def client_of(router: Harness) -> Any:
    """The official client, without its types of every other API."""
    return router.anthropic()


def set_answer(router: Harness, text: str, **options: Any) -> None:
    router.fakes[0].script = answers_with(router.ids(text), eos=EOS, **options)


def prompt_of(router: Harness) -> str:
    return router.assets.tokenizer.decode(list(router.fakes[0].requests[-1].prompt_ids), skip_special_tokens=False)


def create(router: Harness, messages: Any = HI, **options: Any) -> Any:
    return client_of(router).messages.create(**({"model": MODEL, "max_tokens": 100, "messages": messages} | options))


def post(router: Harness, path: str = "", **body: Any) -> httpx2.Response:
    return httpx2.post(
        router.url + "/v1/messages" + path, json={"model": MODEL, "max_tokens": 100, "messages": HI} | body
    )


def events_of(response: httpx2.Response) -> list[dict[str, Any]]:
    """Returns the events of a stream; each is validated with the official types."""
    events = []
    for block in response.text.split("\n\n")[:-1]:
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        if event["type"] != "ping":
            EVENT.validate_python(event)
        events.append(event)
    return events


def test_whole_answer(router: Harness) -> None:
    set_answer(router, "naïve 猫 🐈 café")
    extra = {"temperature": 0.5, "top_p": 0.75, "top_k": 7}
    answer = create(router, system="be nice", extra_body=extra, extra_headers={"x-request-id": "mine"})
    assert [block.type for block in answer.content] == ["text"]
    assert answer.content[0].text == "naïve 猫 🐈 café"
    assert (answer.role, answer.type, answer.model) == ("assistant", "message", MODEL)
    assert (answer.stop_reason, answer.stop_sequence) == ("end_turn", None)
    assert answer.id.startswith("msg_")
    sent = router.fakes[0].requests[0]
    assert answer.usage.input_tokens == len(sent.prompt_ids)
    assert answer.usage.output_tokens == len(router.ids("naïve 猫 🐈 café")) + 1
    assert (sent.sampling.temperature, sent.sampling.top_p, sent.sampling.top_k) == (0.5, 0.75, 7)
    assert sent.sampling.max_tokens == 100
    assert sent.request_id.startswith("mine")
    assert prompt_of(router) == "SYSTEM:be nice [Round 1] USER:hi ASSISTANT:"


@pytest.mark.parametrize("chunk", [1, 3, 50])
@pytest.mark.parametrize("text", ["hello world", f"{THOUGHT}\n\nhello", f"look{CALL}{CALL} done", CALL, ""])
def test_a_stream_says_what_the_whole_answer_says(router: Harness, text: str, chunk: int) -> None:
    set_answer(router, text, chunk=chunk)
    whole = create(router, tools=TOOLS)
    with client_of(router).messages.stream(model=MODEL, max_tokens=100, messages=HI, tools=TOOLS) as events:
        final = events.get_final_message()
    assert [without_id(block) for block in final.content] == [without_id(block) for block in whole.content]
    assert (final.stop_reason, final.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)
    assert final.usage.input_tokens == whole.usage.input_tokens


def without_id(block: Any) -> Any:
    kept = ("type", "text", "thinking", "signature", "name", "input")
    return {name: value for name, value in block.to_dict().items() if name in kept}


def test_the_events_come_in_order(router: Harness) -> None:
    set_answer(router, f"{THOUGHT}ok{CALL}", chunk=50)
    events = events_of(post(router, stream=True, tools=TOOLS))
    kinds = [event.get("delta", {}).get("type") or event["type"] for event in events]
    assert kinds == [
        "message_start",
        *("content_block_start", "thinking_delta", "signature_delta", "content_block_stop"),
        *("content_block_start", "text_delta", "content_block_stop"),
        *("content_block_start", "input_json_delta", "content_block_stop"),
        *("message_delta", "message_stop"),
    ]
    assert events[0]["message"]["usage"]["input_tokens"] > 0
    assert [event["index"] for event in events if event["type"] == "content_block_start"] == [0, 1, 2]
    assert events[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}


@pytest.mark.parametrize("stream", [False, True])
def test_a_round_trip_of_a_tool(router: Harness, stream: bool) -> None:
    set_answer(router, f"{THOUGHT}Let me look.{CALL}")
    client = client_of(router)
    if stream:
        with client.messages.stream(model=MODEL, max_tokens=100, messages=HI, tools=TOOLS) as events:
            answer: Any = events.get_final_message()
    else:
        answer = create(router, tools=TOOLS)
    thinking, text, use = answer.content
    assert (thinking.thinking, text.text) == ("so be it", "Let me look.")
    assert len(thinking.signature) == 32
    assert (use.name, use.input, answer.stop_reason) == ("get_weather", {"city": "Paris"}, "tool_use")
    assert use.id.startswith("toolu_")
    history = [*HI, {"role": "assistant", "content": [block.to_dict() for block in answer.content]}]
    result = {"type": "tool_result", "tool_use_id": use.id, "content": [{"type": "text", "text": "sunny"}]}
    more = {"type": "text", "text": "and now?"}
    create(router, [*history, {"role": "user", "content": [result, more]}], tools=TOOLS)
    assert prompt_of(router).endswith(
        f"USER:hi ASSISTANT:Let me look.{CALL}</longcat_s> TOOL:sunny[Round 3] USER:and now? ASSISTANT:"
    )
    failed = result | {"is_error": True, "content": "no such city"}
    create(router, [*history, {"role": "user", "content": [failed]}], tools=TOOLS)
    assert prompt_of(router).endswith(" TOOL:Error: no such city ASSISTANT:")
    create(
        router, [*history, {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id}]}], tools=TOOLS
    )
    assert prompt_of(router).endswith(" TOOL: ASSISTANT:")


def test_the_same_prompt_as_in_a_chat(router: Harness) -> None:
    function: Any = {"name": "get_weather", "description": "the weather", "parameters": SCHEMA}
    chat: list[Any] = [{"role": "system", "content": "be brief"}, *HI, {"role": "system", "content": "now"}]
    router.client().chat.completions.create(
        model=MODEL,
        messages=chat,
        tools=[{"type": "function", "function": function}],
    )
    expected = prompt_of(router)
    cached = {"cache_control": {"type": "ephemeral"}}
    system = [{"type": "text", "text": "be "}, {"type": "text", "text": "brief", **cached}]
    content = [{"type": "text", "text": "hi", **cached}]
    messages = [{"role": "user", "content": content}, {"role": "system", "content": "now"}]
    create(router, messages, system=system, tools=[TOOLS[0] | cached | {"type": "custom"}])
    assert prompt_of(router) == expected


@pytest.mark.parametrize("stream", [False, True])
def test_stop_reasons(router: Harness, stream: bool) -> None:
    def stop(**options: Any) -> tuple[Any, Any, str]:
        with client_of(router).messages.stream(**({"model": MODEL, "max_tokens": 100, "messages": HI} | options)) as s:
            answer: Any = s.get_final_message() if stream else create(router, **options)
        return answer.stop_reason, answer.stop_sequence, "".join(block.text for block in answer.content)

    set_answer(router, "one two three four")
    assert stop(stop_sequences=["o th", "zzz"]) == ("stop_sequence", "o th", "one tw")
    assert stop(max_tokens=1)[:2] == ("max_tokens", None)
    assert stop() == ("end_turn", None, "one two three four")


def test_a_call_that_the_limit_cuts(router: Harness) -> None:
    text = "<longcat_tool_call>get_weather\n<longcat_arg_key>city</longcat_arg_key><longcat_arg_value>Par"
    set_answer(router, text + "is, and more of it")
    limit = len(router.ids(text))
    answer = create(router, tools=TOOLS, max_tokens=limit)
    assert answer.stop_reason == "max_tokens"
    assert answer.content[0].input == {"city": "Par"}


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_the_model_does_not_finish_is_none_to_run(router: Harness, stream: bool) -> None:
    set_answer(router, '<longcat_tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "n": 123')
    answer = create(router, tools=TOOLS, stream=stream)
    if stream:
        (reason,) = [event.delta.stop_reason for event in answer if event.type == "message_delta"]
    else:
        reason = answer.stop_reason
        assert answer.content[0].name == "get_weather"
    assert reason == "end_turn"


def test_thinking(thinking_router: Harness) -> None:
    router = thinking_router
    set_answer(router, f"{THOUGHT}hello")
    create(router, thinking={"type": "disabled"})
    assert "THINK" not in prompt_of(router)
    create(router, thinking={"type": "adaptive"})
    assert "THINK" not in prompt_of(router)
    create(router, extra_body={"thinking": {"type": "enabled"}})
    assert prompt_of(router).endswith(" THINK")
    for stream in (False, True):
        sent = post(router, thinking={"type": "adaptive", "display": "omitted"}, stream=stream)
        assert "so be it" not in sent.text
        assert "signature" in sent.text
    redacted = {"type": "redacted_thinking", "data": "opaque"}
    thought = {"type": "thinking", "thinking": "aha", "signature": "of another server"}
    create(router, [*HI, {"role": "assistant", "content": [redacted, thought, {"type": "text", "text": "x"}]}, *HI])
    assert "ASSISTANT:(aha)x" in prompt_of(router)
    create(router, thinking={"type": "enabled", "budget_tokens": 1024})
    assert router.fakes[0].requests[-1].sampling.reasoning.budget == 1024


def test_count_tokens(router: Harness) -> None:
    client = client_of(router)
    counted = client.messages.count_tokens(model=MODEL, messages=HI, system="be nice", tools=TOOLS)
    answer = create(router, system="be nice", tools=TOOLS)
    assert counted.input_tokens == answer.usage.input_tokens
    assert client.beta.messages.count_tokens(model=MODEL, messages=HI).input_tokens < counted.input_tokens
    assert len(router.fakes[0].requests) == 1
    assert (
        post(router, "/count_tokens", max_tokens=None).json()["error"]["message"] == "Unknown parameter: 'max_tokens'."
    )


def test_beta_clients_and_headers(router: Harness) -> None:
    keep = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}
    answer = client_of(router).beta.messages.create(
        model=MODEL,
        max_tokens=100,
        messages=HI,
        betas=["context-management-2025-06-27"],
        context_management=keep,
        metadata={"user_id": "me"},
        service_tier="auto",
    )
    assert answer.content[0].text == "hello world"
    raw = client_of(router).messages.with_raw_response.create(model=MODEL, max_tokens=5, messages=HI)
    assert raw.request_id == raw.headers["x-request-id"] == raw.headers["request-id"]
    streamed = post(router, stream=True)
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert "[DONE]" not in streamed.text


async def _breaks(request: Any, context: Any) -> Any:
    async for event in answers_with([70, 71], finish="")(request, context):
        yield event
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no such thing")


def test_an_error_in_a_stream_is_an_error_event(router: Harness) -> None:
    router.fakes[0].script = _breaks
    body = post(router, stream=True).text
    last = body.split("\n\n")[-2].split("\n")
    assert last[0] == "event: error"
    error = json.loads(last[1].removeprefix("data: "))
    assert error["type"] == "error"
    assert error["error"]["type"] == "api_error"
    assert "message_stop" not in body
    with (
        pytest.raises(anthropic.APIStatusError) as caught,
        client_of(router).messages.stream(model=MODEL, max_tokens=9, messages=HI) as events,
    ):
        events.get_final_message()
    assert caught.value.body == {**error, "request_id": caught.value.request_id}


def test_pings_and_bugs_have_the_apis_form() -> None:
    async def run() -> list[bytes]:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        client = MessagesClient(send, request_id="an-id")
        pings = asyncio.create_task(keep_awake(client, every_s=0.04))
        while len(sent) < 3:  # noqa: ASYNC110  the start of the response and two pings
            await asyncio.sleep(0.005)
        pings.cancel()
        await client.error(RouterError("a bug"))
        return [message.get("body", b"") for message in sent[1:]]

    *pings, error, end = asyncio.run(run())
    assert set(pings) == {b'event: ping\ndata: {"type":"ping"}\n\n'}
    assert error.startswith(b"event: error\ndata: ")
    body = json.loads(error.split(b"data: ")[1])
    assert body == {"type": "error", "error": {"type": "api_error", "message": "a bug"}, "request_id": "an-id"}
    assert end == b""
