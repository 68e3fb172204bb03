"""A client whose router has died goes on at another one, behind the event that it saw last: nothing twice or lost."""

from __future__ import annotations

import json
import re
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from support.engine_attention import EngineAttention
from support.fake_attention import FakeAttention, answers_with
from support.gateway_assets import EOS
from support.gateway_harness import MODEL, Harness
from support.numbered_events import Event, events_of, headers_of

from services.router.access.keys import key_hash, new_key, section_of

REPO = Path(__file__).resolve().parents[2]
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
CALL = '<longcat_tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "days": 2}}\n</longcat_tool_call>'
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]
HI = [{"role": "user", "content": "hi"}]


@dataclass
class Choice:
    """What the events of one choice came to."""

    text: str = ""
    reasoning: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)
    roles: int = 0
    finishes: list[str] = field(default_factory=list)

    def take(self, choice: dict[str, Any]) -> None:
        delta = choice.get("delta", {})
        self.roles += "role" in delta
        self.text += choice.get("text") or delta.get("content") or ""
        self.reasoning += delta.get("reasoning") or ""
        for call in delta.get("tool_calls", ()):
            if call["function"].get("name"):
                self.calls.append((call["function"]["name"], ""))
            name, arguments = self.calls[call["index"]]
            self.calls[call["index"]] = name, arguments + call["function"].get("arguments", "")
        self.ids += choice.get("token_ids") or []
        logprobs = choice.get("logprobs") or {}
        self.logprobs += logprobs.get("content") or logprobs.get("token_logprobs") or []
        self.finishes += [choice["finish_reason"]] if choice["finish_reason"] else []


def summary(events: list[Event]) -> tuple[dict[int, Choice], list[Any], int]:
    """The choices, the counts, and how often the stream has ended; of one answer, whatever its parts were."""
    choices: dict[int, Choice] = {}
    counts, ids = [], set()
    for event in events:
        if event.data == "[DONE]":
            continue
        value = json.loads(event.data)
        assert "error" not in value, value
        ids.add((value["id"], value["created"]))
        for choice in value["choices"]:
            choices.setdefault(choice["index"], Choice()).take(choice)
        if not value["choices"]:
            counts.append([value["usage"][name] for name in ("prompt_tokens", "completion_tokens")])
    assert len(ids) == 1
    return choices, counts, sum(event.data == "[DONE]" for event in events)


def ask(router: Harness, route: str, body: dict[str, Any], headers: dict[str, str], most: int = 10**6) -> list[Event]:
    return events_of(router.url + route, {"model": MODEL, **body}, headers, most)


@contextmanager
def two_routers(assets: Path, worker: FakeAttention) -> Iterator[tuple[Harness, Harness]]:
    with Harness(assets, worker) as first, Harness(assets) as second:
        second.directory.workers = list(first.directory.workers)
        second.do(second.serving.attention_workers.refresh())
        yield first, second


@pytest.fixture(scope="module")
def routers(assets_path: Path) -> Iterator[tuple[Harness, Harness]]:
    with two_routers(assets_path, EngineAttention(assets_path)) as both:
        yield both


@pytest.fixture(scope="module")
def scripted(assets_path: Path) -> Iterator[tuple[Harness, Harness]]:
    with two_routers(assets_path, FakeAttention(answers_with([], eos=EOS))) as both:
        yield both


def check_every_cut(routers: tuple[Harness, Harness], route: str, body: dict[str, Any]) -> None:
    """Leaves after each event in turn and goes on at the other router: together it is what another client got."""
    first, second = routers
    body = {"seed": 7} | body
    whole = ask(first, route, body, headers_of(uuid.uuid4().hex))
    choices, counts, done = summary(whole)
    assert done == 1
    assert all(len(choice.finishes) == 1 for choice in choices.values())
    assert all(event.id for event in whole[:-1])
    for cut in range(1, len(whole)):
        request_id = uuid.uuid4().hex  # else the worker has the whole answer
        begun = ask(first, route, body, headers_of(request_id), most=cut)
        if begun[-1].data == "[DONE]":  # some of its tokens have come together
            break
        rest = ask(second, route, body, headers_of(request_id, begun[-1].id))
        assert summary([*begun, *rest]) == (choices, counts, 1), f"cut after {cut}: {begun[-1]}"


@pytest.mark.parametrize("route", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("n", [1, 3])
def test_text_goes_on_behind_any_event(routers: tuple[Harness, Harness], route: str, n: int) -> None:
    prompt: dict[str, Any] = {"messages": HI} if route == CHAT else {"prompt": "the cat sat"}
    logprobs: dict[str, Any] = {"logprobs": True, "top_logprobs": 2} if route == CHAT else {"logprobs": 2}
    body = prompt | {"stream": True, "n": n, "max_tokens": 9, "temperature": 1.0, "return_token_ids": True}
    check_every_cut(routers, route, body | logprobs | {"stream_options": {"include_usage": True}})


def test_a_stop_string_ends_it_once(routers: tuple[Harness, Harness]) -> None:
    first, _ = routers
    body = {"prompt": "the cat sat", "stream": True, "max_tokens": 12, "seed": 3}
    (choice,) = summary(ask(first, COMPLETIONS, body, headers_of(uuid.uuid4().hex)))[0].values()
    stop = choice.text[len(choice.text) // 2 :][:3]
    check_every_cut(routers, COMPLETIONS, body | {"stop": [stop]})


@pytest.mark.parametrize("chunk", [1, 4, 64])
def test_calls_and_reasoning_go_on_where_nothing_was_kept(scripted: tuple[Harness, Harness], chunk: int) -> None:
    """With several events of one message of the worker's: they come again from the same tokens."""
    first, _ = scripted
    text = f"<longcat_think>I look, naïve 🐈</longcat_think>Sure.{CALL}"
    first.fakes[0].script = answers_with(first.ids(text), chunk=chunk, eos=EOS)
    options = {"stream_options": {"include_usage": True}}
    check_every_cut(scripted, CHAT, {"messages": HI, "tools": TOOLS, "stream": True} | options)


def test_an_answer_that_is_not_streamed_is_asked_for_again(routers: tuple[Harness, Harness]) -> None:
    request_id, body = uuid.uuid4().hex, {"model": MODEL, "messages": HI, "max_tokens": 20, "temperature": 1.0}
    answers = [
        httpx2.post(router.url + CHAT, json=body, headers=headers_of(request_id)).json()
        for router in (*routers, routers[0])
    ]
    assert len({json.dumps([one["choices"], one["id"]]) for one in answers}) == 1
    other = httpx2.post(routers[0].url + CHAT, json=body, headers=headers_of(uuid.uuid4().hex)).json()
    assert other["choices"] != answers[0]["choices"], "the seed comes from the request's id"


def test_what_the_worker_has_kept_is_not_computed_again(assets_path: Path) -> None:
    worker = EngineAttention(assets_path)
    with two_routers(assets_path, worker) as (first, second):
        body = {"prompt": "the cat sat", "stream": True, "max_tokens": 200, "ignore_eos": True}
        request_id = uuid.uuid4().hex
        whole = ask(first, COMPLETIONS, body, headers_of(request_id))
        assert worker.worker is not None
        before = worker.worker.engine.counters.generation_tokens
        rest = ask(second, COMPLETIONS, body, headers_of(request_id, whole[99].id))
        choices = summary([*whole[:100], *rest])
        assert choices == summary(whole)
        assert worker.worker.engine.counters.generation_tokens == before


def test_it_goes_on_however_late(assets_path: Path) -> None:
    """An hour later nobody keeps a token of it: all is computed again."""
    worker = EngineAttention(assets_path)
    with Harness(assets_path, EngineAttention(assets_path)) as first, Harness(assets_path, worker) as second:
        body = {"prompt": "the cat sat", "stream": True, "max_tokens": 40, "ignore_eos": True, "return_token_ids": True}
        request_id = uuid.uuid4().hex
        whole = ask(first, COMPLETIONS, body, headers_of(request_id))
        seen = len(whole) // 2  # events may have several tokens each
        created, _, place = whole[seen - 1].id.partition(".")
        an_hour_ago = f"{int(created, 16) - 3600:x}.{place}"
        rest = ask(second, COMPLETIONS, body, headers_of(request_id, an_hour_ago))
        assert worker.worker is not None
        assert worker.worker.engine.counters.generation_tokens == 40
        assert summary(whole[seen:])[0] == summary(rest)[0]


@pytest.mark.parametrize("change", ["id", "body", "event", "tag", "choices"])
def test_another_request_gets_no_answer(routers: tuple[Harness, Harness], change: str) -> None:
    first, second = routers
    body: dict[str, Any] = {"prompt": "the cat sat", "stream": True, "max_tokens": 9}
    request_id = uuid.uuid4().hex
    event_id = ask(first, COMPLETIONS, body, headers_of(request_id), most=1)[-1].id
    created, tag, place = event_id.split(".")
    match change:
        case "id":
            request_id = uuid.uuid4().hex
        case "body":
            body["prompt"] = "the cat sits"
        case "event":
            event_id = "17"
        case "tag":
            event_id = f"{created}.{'0' * 16}.{place}"
        case "choices":
            event_id = f"{created}.{tag}.{place}.{place}"
    answer = httpx2.post(
        second.url + COMPLETIONS, json={"model": MODEL, **body}, headers=headers_of(request_id, event_id)
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "cannot_resume")


def test_another_key_gets_no_answer(assets_path: Path, tmp_path: Path) -> None:
    alice, bob = new_key(), new_key()
    keys = tmp_path / "keys.toml"
    keys.write_text("\n".join(section_of(name, key_hash(key), {}) for name, key in (("alice", alice), ("bob", bob))))
    with Harness(assets_path, EngineAttention(assets_path), api_keys=keys) as router:
        body = {"prompt": "the cat sat", "stream": True, "max_tokens": 9}
        request_id = uuid.uuid4().hex
        own = {"authorization": f"Bearer {alice}"}
        events = ask(router, COMPLETIONS, body, headers_of(request_id, **own))
        other = headers_of(request_id, events[0].id, authorization=f"Bearer {bob}")
        answer = httpx2.post(router.url + COMPLETIONS, json={"model": MODEL, **body}, headers=other)
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "cannot_resume")
        assert ask(router, COMPLETIONS, body, headers_of(request_id, events[0].id, **own))


@pytest.mark.parametrize(
    ("route", "body", "headers", "param"),
    [
        (CHAT, {"messages": HI}, {"Last-Event-ID": "0"}, "X-Request-Id"),
        (CHAT, {"messages": HI}, headers_of("1"), "X-Request-Id"),
        (CHAT, {"messages": HI}, headers_of("a" * 22, "1.2.3"), "Last-Event-ID"),
        (COMPLETIONS, {"prompt": ["a"] * 20, "stream": True}, headers_of("a" * 22), "Last-Event-ID"),
        ("/v1/responses", {"input": "hi"}, headers_of("a" * 22), "Last-Event-ID"),
        ("/v1/messages", {"messages": HI, "max_tokens": 3}, headers_of("a" * 22), None),
    ],
)
def test_what_cannot_be_gone_on_with_is_refused(
    routers: tuple[Harness, Harness], route: str, body: dict[str, Any], headers: dict[str, str], param: str | None
) -> None:
    answer = httpx2.post(routers[0].url + route, json={"model": MODEL, **body}, headers=headers)
    assert answer.status_code in (400, 409), answer.text
    assert answer.json()["error"].get("param") == param


def test_no_other_class_goes_on_with_it(routers: tuple[Harness, Harness]) -> None:
    first, _ = routers
    body = {"prompt": "the cat sat", "stream": True, "max_tokens": 9}
    request_id = uuid.uuid4().hex
    event_id = ask(first, COMPLETIONS, body, headers_of(request_id), most=1)[-1].id
    head, _, place = event_id.rpartition(".")
    tokens, _, worker = place.split("_")
    headers = headers_of(request_id, f"{head}.{tokens}_{'0' * 8}_{worker}")
    answer = httpx2.post(first.url + COMPLETIONS, json={"model": MODEL, **body}, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_equivalent_worker")


def test_others_see_no_ids(routers: tuple[Harness, Harness]) -> None:
    """Lines that simple clients do not know are sent to those that asked for them."""
    body = {"prompt": "the cat sat", "stream": True, "max_tokens": 3}
    assert {event.id for event in ask(routers[0], COMPLETIONS, body, {})} == {""}


@contextmanager
def cutting_proxy(port: int, cuts: list[int]) -> Iterator[str]:
    """A way to the router that breaks after so many bytes of answers, once for each of `cuts`, wherever that is."""
    listener = socket.create_server(("127.0.0.1", 0))

    def pass_on(client: socket.socket, router: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(1 << 16):
                router.sendall(data)
            router.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client, socket.create_connection(("127.0.0.1", port)) as router:
                asking = threading.Thread(target=pass_on, args=(client, router))
                asking.start()
                left = cuts.pop(0) if cuts else 1 << 30
                while left and (data := router.recv(min(left, 1 << 16))):
                    client.sendall(data)
                    left -= len(data)
                for end in (client, router):
                    with suppress(OSError):  # it has ended already
                        end.shutdown(socket.SHUT_RDWR)
                asking.join()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def test_the_documented_client_goes_on_after_cuts(routers: tuple[Harness, Harness]) -> None:
    page = (REPO / "docs/api.md").read_text()
    (code,) = re.findall(r"```python\n(import json, time, uuid\n.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, "docs/api.md", "exec"), names)
    body = {"model": MODEL, "prompt": "the cat sat", "seed": 5, "max_tokens": 40, "ignore_eos": True}
    whole = httpx2.post(routers[0].url + COMPLETIONS, json=body).json()["choices"][0]["text"]
    cuts = [900, 500, 600]
    with cutting_proxy(routers[0].servers.http_port, cuts) as url:
        events = list(names["events"](url + COMPLETIONS, body))
    assert not cuts
    assert "".join(event["choices"][0]["text"] for event in events) == whole
    assert [event["choices"][0]["finish_reason"] for event in events if event["choices"][0]["finish_reason"]] == [
        "length"
    ]
