"""POST /v1/responses through the official client, over HTTP, against a worker with scripted answers."""

from __future__ import annotations

import json
from typing import Any

import grpc
import httpx2
import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter
from support.fake_attention import answers_with
from support.gateway_assets import EOS
from support.gateway_harness import MODEL, Harness

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
TOOLS: list[Any] = [
    {
        "type": "function",
        "name": "get_weather",
        "description": "the weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        "strict": None,
    }
]
CALL = '<longcat_tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</longcat_tool_call>'
THOUGHT = "<longcat_think>so be it</longcat_think>"


def set_answer(router: Harness, text: str, **options: Any) -> None:
    router.fakes[0].script = answers_with(router.ids(text), eos=EOS, **options)


def prompt_of(router: Harness) -> str:
    return router.assets.tokenizer.decode(list(router.fakes[0].requests[-1].prompt_ids), skip_special_tokens=False)


def post(router: Harness, **body: Any) -> httpx2.Response:
    return httpx2.post(router.url + "/v1/responses", json={"model": MODEL, "input": "hi"} | body)


def events_of(response: httpx2.Response) -> list[dict[str, Any]]:
    """Returns the events of a stream; each is validated with the official types."""
    events = []
    for block in response.text.split("\n\n")[:-1]:
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        EVENT.validate_python(event)
        events.append(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def without_ids(items: list[Any]) -> list[Any]:
    return [{name: value for name, value in item.items() if name not in ("id", "call_id")} for item in items]


def test_whole_answer(router: Harness) -> None:
    set_answer(router, "naïve 猫 🐈 café")
    answer = router.client().responses.create(
        model=MODEL, input="hi", temperature=0.5, top_p=0.9, max_output_tokens=100, metadata={"a": "b"}
    )
    assert answer.output_text == "naïve 猫 🐈 café"
    assert (answer.status, answer.error, answer.incomplete_details) == ("completed", None, None)
    assert (answer.temperature, answer.top_p, answer.max_output_tokens) == (0.5, 0.9, 100)
    assert (answer.metadata, answer.model, answer.tool_choice) == ({"a": "b"}, MODEL, "auto")
    assert answer.id.startswith("resp_")
    assert answer.usage is not None
    sent = router.fakes[0].requests[0]
    assert answer.usage.input_tokens == len(sent.prompt_ids)
    assert answer.usage.output_tokens == len(router.ids("naïve 猫 🐈 café")) + 1
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    assert (sent.sampling.temperature, sent.sampling.max_tokens) == (0.5, 100)
    assert prompt_of(router) == "[Round 0] USER:hi ASSISTANT:"


@pytest.mark.parametrize("chunk", [1, 3, 50])
@pytest.mark.parametrize("text", ["hello world", f"{THOUGHT}\n\nhello", f"look{CALL}{CALL} done", CALL, ""])
def test_a_stream_says_what_the_whole_answer_says(router: Harness, text: str, chunk: int) -> None:
    set_answer(router, text, chunk=chunk)
    whole = post(router, tools=TOOLS).json()
    Response.model_validate(whole)
    events = events_of(post(router, tools=TOOLS, stream=True))
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    assert events[-1]["type"] == "response.completed"
    final = events[-1]["response"]
    assert without_ids(final["output"]) == without_ids(whole["output"])
    assert final["usage"] == whole["usage"]
    assert [e["item"] for e in events if e["type"] == "response.output_item.done"] == final["output"]
    for number, item in enumerate(final["output"]):
        kind = {"message": "output_text", "reasoning": "reasoning_text", "function_call": "function_call_arguments"}
        deltas = [
            e for e in events if e["type"] == f"response.{kind[item['type']]}.delta" and e["output_index"] == number
        ]
        text = item["arguments"] if item["type"] == "function_call" else item["content"][0]["text"]
        assert "".join(delta["delta"] for delta in deltas) == text
        assert all(delta["item_id"] == item["id"] for delta in deltas)


def test_the_events_of_each_kind_of_item_come_in_order(router: Harness) -> None:
    set_answer(router, f"{THOUGHT}ok{CALL}", chunk=50)
    assert [event["type"].removeprefix("response.") for event in events_of(post(router, tools=TOOLS, stream=True))] == [
        *("created", "in_progress"),
        *("output_item.added", "content_part.added", "reasoning_text.delta"),
        *("reasoning_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "content_part.added", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.delta"),
        *("function_call_arguments.done", "output_item.done"),
        "completed",
    ]


def test_the_clients_own_stream_helper(router: Harness) -> None:
    set_answer(router, f"{THOUGHT}hello{CALL}")
    with router.client().responses.stream(model=MODEL, input="hi", tools=TOOLS) as stream:
        texts = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(texts) == final.output_text == "hello"
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_round_trip_of_a_tool(router: Harness, stream: bool) -> None:
    client = router.client()
    set_answer(router, f"{THOUGHT}Let me look.{CALL}")
    asked: list[Any] = [{"role": "user", "content": "weather?"}]
    if stream:
        with client.responses.stream(model=MODEL, input=asked, tools=TOOLS) as events:
            answer: Any = events.get_final_response()
    else:
        answer = client.responses.create(model=MODEL, input=asked, tools=TOOLS)
    reasoning, message, call = answer.output
    assert reasoning.content[0].text == "so be it"
    assert message.content[0].text == "Let me look."
    assert (call.name, json.loads(call.arguments), call.status) == ("get_weather", {"city": "Paris"}, "completed")
    assert answer.usage.output_tokens_details.reasoning_tokens > 0
    history = [*asked, *(item.to_dict() for item in answer.output)]
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    set_answer(router, "It is sunny.")
    last = client.responses.create(model=MODEL, input=[*history, result], tools=TOOLS)
    assert last.output_text == "It is sunny."
    arguments = '<longcat_tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</longcat_tool_call>'
    assert f"USER:weather? ASSISTANT:Let me look.{arguments}</longcat_s> TOOL:sunny ASSISTANT:" in prompt_of(router)


def test_the_same_prompt_as_in_a_chat(router: Harness) -> None:
    function: Any = {name: TOOLS[0][name] for name in ("name", "description", "parameters")}
    calls = [{"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "猫"}'}}]
    messages: list[Any] = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "three"},
        {"role": "developer", "content": "four"},
    ]
    router.client().chat.completions.create(
        model=MODEL,
        messages=messages,
        tools=[{"type": "function", "function": function}],
    )
    chat = prompt_of(router)
    items: list[Any] = [
        {"role": "user", "content": [{"type": "input_text", "text": "o"}, {"type": "input_text", "text": "ne"}]},
        {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": "two"},
        {"type": "function_call", "call_id": "c1", "name": "get_weather", "arguments": '{"city": "猫"}'},
        {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "three"}]},
        {"role": "developer", "content": "four"},
    ]
    router.client().responses.create(model=MODEL, instructions="be brief", input=items, tools=TOOLS)
    assert prompt_of(router) == chat


def test_texts_in_a_row_are_messages_and_what_was_declined_is_a_text(router: Harness) -> None:
    declined: Any = {"type": "refusal", "refusal": "no"}
    items: list[Any] = [
        {"role": "assistant", "content": "a"},
        {"role": "assistant", "content": [declined], "type": "message", "id": "m", "status": "completed"},
    ]
    router.client().responses.create(model=MODEL, input=items)
    assert prompt_of(router) == " ASSISTANT:a</longcat_s> ASSISTANT:no</longcat_s> ASSISTANT:"


def test_what_load_generators_send(router: Harness) -> None:
    """guidellm: `ignore_eos` and a null `stop`; aiperf: `include_usage`, which says what is so anyway."""
    set_answer(router, "one two three")
    sent = post(router, ignore_eos=True, stop=None, stream=True, stream_options={"include_usage": True})
    assert events_of(sent)[-1]["response"]["usage"]["output_tokens"] > 0
    assert router.fakes[0].requests[0].sampling.ignore_eos
    assert post(router, stop=[" two", "x"]).json()["output"][0]["content"][0]["text"] == "one"


@pytest.mark.parametrize("stream", [False, True])
def test_a_limit_makes_the_response_incomplete(router: Harness, stream: bool) -> None:
    set_answer(router, "one two three four five six")
    sent = post(router, max_output_tokens=4, stream=stream)
    if stream:
        last = events_of(sent)[-1]
        assert last["type"] == "response.incomplete"
        answer = last["response"]
    else:
        answer = sent.json()
    assert (answer["status"], answer["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert [item["status"] for item in answer["output"]] == ["incomplete"]
    assert answer["completed_at"] is None
    assert answer["usage"]["output_tokens"] == 4


@pytest.mark.parametrize("chunk", [1, 4, 100])
@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_are_those_of_the_text_alone(router: Harness, stream: bool, chunk: int) -> None:
    set_answer(router, f"{THOUGHT}猫 is a cat{CALL}", chunk=chunk)
    body: dict[str, Any] = {"include": ["message.output_text.logprobs"], "top_logprobs": 2, "tools": TOOLS}
    sent = post(router, **body, stream=stream)
    answer = events_of(sent)[-1]["response"] if stream else sent.json()
    (part,) = [item["content"][0] for item in answer["output"] if item["type"] == "message"]
    assert b"".join(bytes(entry["bytes"]) for entry in part["logprobs"]) == "猫 is a cat".encode()
    ids = router.ids("猫 is a cat")
    assert [entry["logprob"] for entry in part["logprobs"]] == pytest.approx([-one / 1000 for one in ids])
    assert {len(entry["top_logprobs"]) for entry in part["logprobs"]} == {2}
    if stream:
        deltas = [event for event in events_of(sent) if event["type"] == "response.output_text.delta"]
        assert [entry for delta in deltas for entry in delta["logprobs"]] == part["logprobs"]
    assert post(router).json()["output"][1]["content"][0]["logprobs"] == []


async def _breaks(request: Any, context: Any) -> Any:
    async for event in answers_with([70, 71], finish="")(request, context):
        yield event
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no such thing")


def test_an_error_in_a_stream_fails_the_response(router: Harness) -> None:
    router.fakes[0].script = _breaks
    events = events_of(post(router, stream=True))
    assert [event["type"] for event in events[-2:]] == ["error", "response.failed"]
    assert events[-2]["code"] == "rejected_by_worker"
    failed = events[-1]["response"]
    assert (failed["status"], failed["error"]["code"]) == ("failed", "server_error")
    (item,) = failed["output"]
    assert item["status"] == "incomplete"
    assert item["content"][0]["text"] == router.assets.tokenizer.decode([70, 71])
    seen = list(router.client().responses.create(model=MODEL, input="hi", stream=True))
    assert seen[-1].type == "response.failed"


def test_an_error_before_any_token_has_its_own_status(router: Harness) -> None:
    async def aborts(request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no such thing")
        yield

    router.fakes[0].script = aborts
    for stream in (False, True):
        answer = post(router, stream=stream)
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "rejected_by_worker")


def test_without_a_store_nothing_is_stored(router: Harness) -> None:
    client = router.client()
    answer = client.responses.create(model=MODEL, input="hi")
    assert answer.model_extra is not None
    assert answer.model_extra["store"] is False
    wrong: tuple[dict[str, Any], ...] = ({"store": True}, {"previous_response_id": answer.id})
    for fields in wrong:
        with pytest.raises(openai.BadRequestError, match="CARACAL_RESPONSE_TTL_S") as caught:
            client.responses.create(model=MODEL, input="hi", **fields)
        assert caught.value.param == next(iter(fields))
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(answer.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.delete(answer.id)


@pytest.mark.parametrize("path", ["embeddings", "rerank", "score"])
def test_what_is_not_offered_says_so(router: Harness, path: str) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        router.client().with_options(max_retries=2).post(f"/{path}", body={"input": "hi"}, cast_to=dict[str, Any])
    assert (caught.value.status_code, caught.value.code) == (501, "not_implemented")
    assert caught.value.response.headers["x-should-retry"] == "false"
