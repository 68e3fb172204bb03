"""Conversations stored in a real Redis: two routers continue each other's, and Redis may be away or full."""

from __future__ import annotations

import os
import signal
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import orjson
import pytest
import redis
from support.fake_attention import FakeAttention, answers_with
from support.gateway_assets import EOS
from support.gateway_harness import MODEL, Harness

from services.local.redis_server import start_redis
from services.process.addresses import free_port
from services.process.children import Child, end
from services.router.gateway.responses_api.records import MAX_BYTES, BadRecord, Record

pytestmark = pytest.mark.processes

CALL = '<longcat_tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</longcat_tool_call>'
TOOLS: list[Any] = [{"type": "function", "name": "f", "parameters": {}, "strict": None}]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Child, redis.Redis]]:
    port = free_port()
    child = start_redis(port, tmp_path_factory.mktemp("redis"))
    url = f"redis://127.0.0.1:{port}/0"
    client = redis.Redis.from_url(url)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            client.ping()
            break
        except redis.ConnectionError:
            time.sleep(0.02)
    yield url, child, client
    client.close()
    end([child], 2)


@pytest.fixture(scope="module")
def routers(assets_path: Path, server: tuple[str, Child, redis.Redis]) -> Iterator[tuple[Harness, Harness]]:
    first, second = (FakeAttention(answers_with([]), worker_id=name) for name in ("attention-0", "attention-1"))
    with (
        Harness(assets_path, first, redis_url=server[0]) as one,
        Harness(assets_path, second, redis_url=server[0]) as two,
    ):
        yield one, two


@pytest.fixture(autouse=True)
def empty(server: tuple[str, Child, redis.Redis], routers: tuple[Harness, Harness]) -> None:
    server[2].flushall()
    for router in routers:
        set_answer(router, "hello world")


def client_of(router: Harness) -> Any:
    """The official client, without its types of every other API."""
    return router.client()


def set_answer(router: Harness, text: str) -> None:
    router.fakes[0].script = answers_with(router.ids(text), eos=EOS)


def prompt_of(router: Harness) -> str:
    return router.assets.tokenizer.decode(list(router.fakes[0].requests[-1].prompt_ids), skip_special_tokens=False)


def create(router: Harness, text: Any, **options: Any) -> Any:
    return client_of(router).responses.create(model=MODEL, input=text, **options)


def test_any_router_continues_a_conversation(routers: tuple[Harness, Harness]) -> None:
    one, two = routers
    set_answer(one, f"<longcat_think>hm</longcat_think>well{CALL}")
    first = create(one, "one", instructions="be brief", tools=TOOLS)
    result = {"type": "function_call_output", "call_id": first.output[-1].call_id, "output": "two"}
    set_answer(two, "three")
    with client_of(two).responses.stream(
        model=MODEL, input=[result], previous_response_id=first.id, instructions="be long", tools=TOOLS
    ) as events:
        second = events.get_final_response()
    assert second.previous_response_id == first.id
    call = CALL.replace('{"a": 1}', '{"a": 1}')
    assert prompt_of(two).endswith(
        f"SYSTEM:be long [Round 1] USER:one ASSISTANT:well\n{call}</longcat_s> TOOL:two ASSISTANT:"
    ) or prompt_of(two).endswith(
        f"SYSTEM:be long [Round 1] USER:one ASSISTANT:well{call}</longcat_s> TOOL:two ASSISTANT:"
    )
    create(one, "four", previous_response_id=second.id)
    assert prompt_of(one).endswith("TOOL:two ASSISTANT:three</longcat_s>[Round 4] USER:four ASSISTANT:")
    assert "SYSTEM" not in prompt_of(one), "instructions are not carried over"
    create(one, "other", previous_response_id=first.id)
    assert prompt_of(one).endswith("[Round 2] USER:other ASSISTANT:"), "a conversation may fork"


def test_a_stored_response_is_what_was_sent(routers: tuple[Harness, Harness]) -> None:
    one, two = routers
    answer = create(one, "hi", metadata={"a": "b"}, tools=TOOLS)
    again = client_of(two).responses.retrieve(answer.id)
    assert again == answer
    scored = create(one, "hi", include=["message.output_text.logprobs"])
    assert scored.output[0].content[0].logprobs
    assert client_of(two).responses.retrieve(scored.id).output[0].content[0].logprobs == []
    client_of(two).responses.delete(answer.id)
    for router in routers:
        with pytest.raises(openai.NotFoundError) as caught:
            client_of(router).responses.retrieve(answer.id)
        assert caught.value.code == "response_not_found"
        with pytest.raises(openai.NotFoundError):
            client_of(router).responses.delete(answer.id)


def test_no_response_is_in_the_background_so_that_it_could_be_cancelled(routers: tuple[Harness, Harness]) -> None:
    client = client_of(routers[0])
    answer = client.responses.create(model=MODEL, input="hi")
    with pytest.raises(openai.BadRequestError, match="Cannot cancel a synchronous response") as caught:
        client_of(routers[1]).responses.cancel(answer.id)
    assert caught.value.param == "response_id"
    assert client.responses.retrieve(answer.id).status == "completed"
    for unknown in ("resp_" + "0" * 48, "x", client.responses.create(model=MODEL, input="hi", store=False).id):
        with pytest.raises(openai.NotFoundError) as missing:
            client.responses.cancel(unknown)
        assert missing.value.code == "response_not_found"


def test_encrypted_reasoning_is_not_stored_twice(routers: tuple[Harness, Harness]) -> None:
    set_answer(routers[0], "<longcat_think>so</longcat_think>hello")
    client = client_of(routers[0])
    answer = client.responses.create(model=MODEL, input="hi", include=["reasoning.encrypted_content"])
    assert answer.output[0].encrypted_content
    stored = client.responses.retrieve(answer.id)
    assert (stored.output[0].encrypted_content, stored.output[0].content[0].text) == (None, "so")


def test_input_items_are_listed_in_pages(routers: tuple[Harness, Harness]) -> None:
    one, two = routers
    first = create(one, [{"role": "user", "content": "a"}, {"role": "developer", "content": "b"}])
    second = create(one, "c", previous_response_id=first.id)
    listing = client_of(two).responses.input_items
    texts = [item.content[0].text for item in listing.list(second.id, order="asc")]
    assert texts == ["a", "b", "hello world", "c"]
    assert [item.content[0].text for item in listing.list(second.id, limit=1)] == texts[::-1]
    page = listing.list(second.id, limit=3)
    assert page.has_more
    assert [item.content[0].text for item in listing.list(second.id, after=page.last_id)] == ["a"]
    for query, param in (
        ({"limit": 0}, "limit"),
        ({"order": "up"}, "order"),
        ({"after": "x"}, "after"),
        ({"a": 1}, "a"),
    ):
        answer = httpx2.get(f"{one.url}/v1/responses/{second.id}/input_items", params=query)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    for query, param in (({"stream": "true"}, "stream"), ({"include[]": "x"}, "include"), ({"x": ""}, "x")):
        answer = httpx2.get(f"{one.url}/v1/responses/{second.id}", params=query)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_what_is_not_stored_cannot_be_continued(
    routers: tuple[Harness, Harness], server: tuple[str, Child, redis.Redis]
) -> None:
    one, _ = routers
    answer = create(one, "hi", store=False)
    assert answer.model_extra["store"] is False
    assert not server[2].keys()
    for unknown in (answer.id, "resp_" + "0" * 48, "x", "", "a" * 10_000, "resp_*"):
        with pytest.raises(openai.BadRequestError) as caught:
            create(one, "more", previous_response_id=unknown)
        assert (caught.value.code, caught.value.param) == ("previous_response_not_found", "previous_response_id")
        assert len(caught.value.message) < 300
    first = create(one, "a")
    second = create(one, "b", previous_response_id=first.id)
    client_of(one).responses.delete(first.id)
    with pytest.raises(openai.BadRequestError, match=second.id):
        create(one, "c", previous_response_id=second.id)
    with pytest.raises(openai.NotFoundError):
        client_of(one).responses.input_items.list(second.id)
    assert client_of(one).responses.retrieve(second.id).output_text == "hello world"


def test_responses_expire_unless_they_are_continued(
    routers: tuple[Harness, Harness], server: tuple[str, Child, redis.Redis]
) -> None:
    one, _ = routers
    first = create(one, "a")
    client = server[2]
    key = f"test:response:{first.id}"
    assert 50 < client.ttl(key) <= 60
    client.expire(key, 5)
    create(one, "b", previous_response_id=first.id)
    assert 50 < client.ttl(key) <= 60
    client.delete(key)
    with pytest.raises(openai.NotFoundError):
        client_of(one).responses.retrieve(first.id)


def test_the_oldest_go_when_the_memory_is_full(assets_path: Path, server: tuple[str, Child, redis.Redis]) -> None:
    fake = FakeAttention(answers_with([70], eos=EOS))
    url, _, client = server
    noise = os.urandom(60_000).hex()  # compresses to half of it
    with Harness(assets_path, fake, redis_url=url, response_memory_mb=1) as router:
        ids = [create(router, "x", metadata={}, instructions=None, user=noise[:9]).id]
        for _ in range(30):
            body = {"model": MODEL, "input": "x", "tools": [{"type": "function", "name": "f", "description": noise}]}
            answer = httpx2.post(router.url + "/v1/responses", json=body | {"tool_choice": "none"})
            assert answer.status_code == 200, answer.text
            ids.append(answer.json()["id"])
        kept = [name for name in ids if client.exists(f"test:response:{name}")]
        assert kept == ids[-len(kept) :], "the newest are kept"
        assert 5 < len(kept) < 30
        sizes = [client.strlen(f"test:response:{name}") for name in kept]
        assert int(client.hget("test:responses:bytes", "total") or 0) == sum(sizes) <= 1 << 20
        for name in kept:
            client_of(router).responses.delete(name)
        assert int(client.hget("test:responses:bytes", "total") or 0) == 0
        assert client.zcard("test:responses") == 0


def test_redis_away_stops_only_what_needs_it(
    routers: tuple[Harness, Harness], server: tuple[str, Child, redis.Redis]
) -> None:
    one, _ = routers
    known = create(one, "hi").id
    asked = len(one.fakes[0].requests)
    server[1].signal(signal.SIGSTOP)
    try:
        for fields, param in (({"store": True}, "store"), ({}, "store"), ({"store": False}, "previous_response_id")):
            more: dict[str, Any] = {"previous_response_id": known} if param != "store" else {}
            with pytest.raises(openai.InternalServerError, match=f"{param}: responses are stored in Redis") as caught:
                create(one, "more", **fields, **more)
            assert (caught.value.status_code, caught.value.code) == (503, "redis_unavailable")
            assert caught.value.param == param
            assert caught.value.response.headers["retry-after"] == "1"
        with pytest.raises(openai.InternalServerError):
            client_of(one).responses.retrieve(known)
        assert len(one.fakes[0].requests) == asked, "nothing was generated for nothing"
        assert create(one, "hi", store=False).output_text == "hello world"
    finally:
        server[1].signal(signal.SIGCONT)
    assert create(one, "hi", previous_response_id=known).output_text == "hello world"


@pytest.mark.parametrize("stream", [False, True])
def test_redis_lost_while_an_answer_is_made(
    routers: tuple[Harness, Harness], server: tuple[str, Child, redis.Redis], stream: bool
) -> None:
    one, _ = routers

    async def loses(request: Any, context: Any) -> Any:
        async for event in answers_with(one.ids("hello"), eos=EOS)(request, context):
            server[1].signal(signal.SIGSTOP)
            yield event

    one.fakes[0].script = loses
    try:
        if stream:
            events = list(client_of(one).responses.create(model=MODEL, input="hi", stream=True))
            assert [event.type for event in events[-2:]] == ["error", "response.failed"]
            assert "store: responses are stored in Redis" in events[-1].response.error.message
        else:
            with pytest.raises(openai.InternalServerError) as caught:
                create(one, "hi")
            assert caught.value.code == "redis_unavailable"
    finally:
        server[1].signal(signal.SIGCONT)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no zlib",
        zlib.compress(b"[]"),
        zlib.compress(b'{"response": {}, "items": [], "before": []}'),
        zlib.compress(b'{"response": {"output": []}, "items": [1], "before": []}'),
        zlib.compress(b'{"response": {"output": []}, "items": [], "before": "resp_00000000000000000"}'),
        zlib.compress(b" " * (2 * MAX_BYTES)),
        zlib.compress(b"[" * 100_000),
    ],
    ids=["empty", "noise", "list", "no_output", "items", "before", "bomb", "deep"],
)
def test_what_is_no_record_is_not_found(
    routers: tuple[Harness, Harness], server: tuple[str, Child, redis.Redis], data: bytes
) -> None:
    response_id = "resp_" + "1" * 48
    with pytest.raises(BadRecord):
        Record.from_bytes(data)
    server[2].set(f"test:response:{response_id}", data)
    with pytest.raises(openai.NotFoundError):
        client_of(routers[0]).responses.retrieve(response_id)
    with pytest.raises(openai.BadRequestError):
        create(routers[0], "hi", previous_response_id=response_id)


def test_a_record_with_foreign_items_is_an_error_of_its_own(
    routers: tuple[Harness, Harness], server: tuple[str, Child, redis.Redis]
) -> None:
    response_id = "resp_" + "2" * 48
    record = Record({"id": response_id, "output": [{"type": "web_search_call"}]}, [], [])
    server[2].set(f"test:response:{response_id}", record.to_bytes())
    with pytest.raises(openai.InternalServerError, match="stored response cannot be read"):
        create(routers[0], "hi", previous_response_id=response_id)


def test_a_record_has_a_limit() -> None:
    with pytest.raises(BadRecord, match="at most"):
        Record({"id": "x", "output": [], "text": "x" * MAX_BYTES}, [], []).to_bytes()
    record = Record({"id": "x", "output": []}, [{"a": "猫"}], ["y"])
    assert Record.from_bytes(record.to_bytes()) == record
    assert orjson.loads(zlib.decompress(record.to_bytes()))["before"] == ["y"]


def test_a_ttl_of_0_stores_nothing(assets_path: Path, server: tuple[str, Child, redis.Redis]) -> None:
    fake = FakeAttention(answers_with([70], eos=EOS))
    with Harness(assets_path, fake, redis_url=server[0], response_ttl_s=0) as router:
        assert create(router, "hi").model_extra["store"] is False
        assert not server[2].keys()
        with pytest.raises(openai.BadRequestError, match="CARACAL_RESPONSE_TTL_S"):
            create(router, "hi", store=True)
