"""API keys over real sockets: default deny, quotas, weights, owners, reloading."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anthropic
import grpc
import httpx2
import openai
import pytest
from caracal_proto import router_pb2, router_pb2_grpc
from support.fake_attention import FakeAttention, answers_with
from support.gateway_assets import EOS
from support.gateway_harness import MODEL, Harness
from support.raw_http import exchange, post
from support.worker_processes import Store, redis_store

from services.router.access.control import RELOAD_S
from services.router.access.keys import key_hash, new_key, section_of
from services.router.gateway.api_routes import ROUTES

pytestmark = pytest.mark.processes

ALICE, BOB, ROOT, FEW, SLOW, URLS, LEFT, ENDS = (new_key() for _ in range(8))
HI: list[Any] = [{"role": "user", "content": "hello"}]
KEYS: dict[str, tuple[str, dict[str, Any]]] = {
    "alice": (ALICE, {}),
    "bob": (BOB, {"weight": 2.5}),
    "root": (ROOT, {"admin": True}),
    "few": (FEW, {"requests_per_minute": 2.0, "tokens_per_minute": 200.0}),
    "slow": (SLOW, {"concurrent": 1}),
    "urls": (URLS, {"requests_per_minute": 1.0}),
    "left": (LEFT, {"tokens_per_minute": 100.0}),
    "ends": (ENDS, {"tokens_per_minute": 100.0}),
}


def file_of(names: dict[str, tuple[str, dict[str, Any]]]) -> str:
    return "\n".join(section_of(name, key_hash(key), limits) for name, (key, limits) in names.items())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with redis_store(tmp_path_factory.mktemp("redis")) as store:
        yield store


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    path.write_text(file_of(KEYS))
    return path


@pytest.fixture(scope="module")
def router(assets_path: Path, keys_file: Path, store: Store) -> Iterator[Harness]:
    fake = FakeAttention(answers_with([], eos=EOS))
    with Harness(assets_path, fake, api_keys=keys_file, redis_url=store.url) as harness:
        fake.script = answers_with(harness.ids("hello world"), eos=EOS)
        yield harness


def ask(router: Harness, key: str | None, path: str = "/v1/chat/completions", **fields: Any) -> httpx2.Response:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    body = {"model": MODEL, "messages": HI, "max_tokens": 5} | fields
    return httpx2.post(router.url + path, json=body, headers=headers)


def every_path(router: Harness) -> list[tuple[str, str]]:
    found = [(route.method, route.path.replace("{response_id}", "resp_" + "0" * 16)) for route in ROUTES]
    paths = ("/v1/models", "/v1/models/x", "/version", "/load", "/cluster", "/metrics", "/docs", "/openapi.json")
    odd = ("/nonsense", "//health", "/health/", "/ready;a", "/health/../metrics", "/console/api/state", "/HEALTH")
    return [*found, *(("GET", path) for path in (*paths, *odd)), ("PUT", "/v1/models"), ("HEAD", "/metrics")]


def test_workers_learn_whom_a_request_counts_for(router: Harness) -> None:
    sent = router.fakes[0].requests
    before = len(sent)
    for key in (ALICE, BOB, ALICE):
        assert ask(router, key).status_code == 200
    first, other, again = sent[before:]
    assert first.caller == again.caller != other.caller
    assert 0 not in (first.caller, other.caller)
    assert (first.weight, other.weight) == (1.0, 2.5)


def test_without_a_key_nothing_but_probes_is_answered(router: Harness) -> None:
    for method, path in every_path(router):
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": f"Basic {ALICE}"},
            {"x-api-key": ALICE + " x"},
            {"authorization": f"Bearer {ALICE}", "x-api-key": BOB},
            {"authorization": "Bearer " + "a" * 5000},
        ):
            answer = httpx2.request(method, router.url + path, headers=headers)
            assert answer.status_code == 401, (method, path, headers)
            assert answer.headers["www-authenticate"] == "Bearer"
    for path in ("/health", "/ready", "/ping"):
        assert httpx2.get(router.url + path).status_code == 200


@pytest.mark.parametrize(
    "headers", [{"authorization": "Bearer filler"}, {"authorization": ""}, {"authorization": "Basic eDp4"}]
)
def test_a_filler_beside_a_key_is_no_matter(router: Harness, headers: dict[str, str]) -> None:
    assert httpx2.get(router.url + "/v1/models", headers={"x-api-key": ALICE, **headers}).status_code == 200


def test_a_target_that_is_a_whole_url_is_treated_as_its_path(router: Harness) -> None:
    body = json.dumps({"model": MODEL, "messages": HI, "max_tokens": 5}).encode()
    target = post("http://x/v1/chat/completions", body)
    assert exchange(router, target).status == 401
    keyed = post("http://x/v1/chat/completions", body, extra=f"x-api-key: {URLS}\r\n")
    assert [exchange(router, keyed).status for _ in range(2)] == [200, 429]
    assert exchange(router, b"GET http://x/health HTTP/1.1\r\nhost: x\r\n\r\n").status == 200
    assert exchange(router, b"GET http://x/metrics HTTP/1.1\r\nhost: x\r\n\r\n").status == 401


def test_an_answer_without_max_tokens_has_what_the_key_has_left(router: Harness) -> None:
    fake = router.fakes[0]
    script, fake.script = fake.script, answers_with(router.ids("hello") * 400, eos=EOS)
    try:
        answer = httpx2.post(
            router.url + "/v1/chat/completions", json={"model": MODEL, "messages": HI}, headers={"x-api-key": LEFT}
        )
    finally:
        fake.script = script
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["finish_reason"] == "length"
    assert answer.json()["usage"]["total_tokens"] == 100
    assert int(answer.headers["x-ratelimit-remaining-tokens"]) == 0


def test_a_quota_counts_what_usage_counts(router: Harness) -> None:
    """Tokens that come together with a stop string's, as drafts do, and lie behind it are not paid for."""
    fake = router.fakes[0]
    script, fake.script = fake.script, answers_with(router.ids("hello") * 40, chunk=40)
    try:
        first, second = (
            httpx2.post(
                router.url + "/v1/chat/completions",
                json={"model": MODEL, "messages": HI, "max_tokens": 40, "stop": "hello"},
                headers={"x-api-key": ENDS},
            )
            for _ in range(2)
        )
    finally:
        fake.script = script
    usage = first.json()["usage"]
    assert usage["completion_tokens"] == 1
    reserved = usage["prompt_tokens"] + 40
    assert int(second.headers["x-ratelimit-remaining-tokens"]) >= 100 - usage["total_tokens"] - reserved


def test_all_causes_have_the_same_body(router: Harness) -> None:
    bodies = {ask(router, key).text for key in (None, "x", "wrong", ALICE[:-1], ALICE.upper())}
    assert len(bodies) == 1
    error = json.loads(bodies.pop())["error"]
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "invalid_api_key", None)


def test_official_clients_get_their_own_exceptions(router: Harness) -> None:
    ask_openai = openai.OpenAI(base_url=router.url + "/v1", api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        ask_openai.chat.completions.create(model=MODEL, messages=HI)
    right = openai.OpenAI(base_url=router.url + "/v1", api_key=ALICE, max_retries=0)
    assert right.chat.completions.create(model=MODEL, messages=HI).choices[0].message.content == "hello world"
    with pytest.raises(anthropic.AuthenticationError):
        anthropic.Anthropic(base_url=router.url, api_key="wrong", max_retries=0).messages.create(
            model=MODEL, messages=HI, max_tokens=9
        )
    answer = anthropic.Anthropic(base_url=router.url, api_key=BOB, max_retries=0).messages.create(
        model=MODEL, messages=HI, max_tokens=9
    )
    assert answer.content[0].text == "hello world"  # type: ignore[union-attr]  # it is text


def test_admin_routes_need_an_admin(router: Harness) -> None:
    for path in ("/metrics", "/load", "/cluster", "/console/api/state"):
        answer = httpx2.get(router.admin_url + path, headers={"x-api-key": ALICE})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "permission_denied"), path
        assert httpx2.get(router.admin_url + path, headers={"x-api-key": ROOT}).status_code not in (401, 403), path
    assert httpx2.get(router.url + "/v1/models", headers={"x-api-key": ALICE}).status_code == 200


def test_quotas_of_requests_and_tokens(router: Harness) -> None:
    first = ask(router, FEW)
    assert first.status_code == 200
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    assert 0 < int(first.headers["x-ratelimit-remaining-tokens"]) < 200
    never = ask(router, FEW, max_tokens=300)
    assert never.status_code == 429
    assert never.headers["x-should-retry"] == "false"
    assert "200 tokens a minute" in never.json()["error"]["message"]
    third = ask(router, FEW)
    assert third.headers["x-ratelimit-remaining-requests"] == "0"
    assert (third.status_code, third.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert 1 <= int(third.headers["retry-after"]) <= 60
    assert ask(router, ALICE).status_code == 200, "others are not concerned"


def test_open_requests_of_a_key_are_bounded(router: Harness) -> None:
    fake = router.fakes[0]
    script, fake.script = fake.script, answers_with(router.ids("hello") * 200, pause=0.05, eos=EOS)
    try:
        with httpx2.stream(
            "POST",
            router.url + "/v1/chat/completions",
            json={"model": MODEL, "messages": HI, "stream": True, "max_tokens": 150},
            headers={"x-api-key": SLOW},
        ) as stream:
            lines = stream.iter_lines()  # kept: a stream whose lines nobody holds is closed
            next(lines)
            second = ask(router, SLOW)
            assert second.status_code == 429
            assert "1 open requests" in second.json()["error"]["message"]
    finally:
        fake.script = script
    deadline = time.monotonic() + 10
    while ask(router, SLOW).status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_stored_responses_belong_to_a_key(router: Harness) -> None:
    alice, bob = (openai.OpenAI(base_url=router.url + "/v1", api_key=key, max_retries=0) for key in (ALICE, BOB))
    stored = alice.responses.create(model=MODEL, input="hello")
    assert alice.responses.retrieve(stored.id).id == stored.id
    for call in (
        lambda: bob.responses.retrieve(stored.id),
        lambda: bob.responses.delete(stored.id),
        lambda: bob.responses.input_items.list(stored.id),
    ):
        with pytest.raises(openai.NotFoundError):
            call()
    with pytest.raises(openai.BadRequestError, match="not found"):
        bob.responses.create(model=MODEL, input="and?", previous_response_id=stored.id)
    alice.responses.create(model=MODEL, input="and?", previous_response_id=stored.id)
    alice.responses.delete(stored.id)


def test_grpc_needs_the_same_keys(router: Harness) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{router.servers.grpc_port}") as channel:
        stub: Any = router_pb2_grpc.RouterStub(channel)
        request = router_pb2.TextRequest(prompt="a", model=MODEL)
        for metadata in (
            (),
            (("authorization", "Bearer wrong"),),
            (("x-api-key", ALICE), ("authorization", f"Bearer {BOB}")),
        ):
            with pytest.raises(grpc.RpcError) as error:
                list(stub.Generate(request, metadata=metadata))
            assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert list(stub.Generate(request, metadata=(("authorization", f"Bearer {ALICE}"),)))


def test_a_browser_may_ask_what_it_may_ask(router: Harness) -> None:
    assert httpx2.request("OPTIONS", router.url + "/v1/chat/completions").status_code == 204


def test_a_changed_file_counts_at_once_and_a_bad_one_not_at_all(router: Harness, keys_file: Path) -> None:
    carol, before = new_key(), keys_file.read_text()
    assert ask(router, carol).status_code == 401

    def becomes(key: str, status: int) -> None:
        deadline = time.monotonic() + 10 * RELOAD_S
        while ask(router, key).status_code != status:
            assert time.monotonic() < deadline
            time.sleep(0.1)

    keys_file.write_text(file_of({"carol": (carol, {})} | KEYS))
    becomes(carol, 200)
    assert outdated(router) == 0
    keys_file.write_text("[carol]\nsha256 = 5\n".ljust(len(before)))
    changed = keys_file.stat().st_mtime_ns
    wait_for(lambda: outdated(router) == 1)
    assert ask(router, carol).status_code == 200
    keys_file.write_text(before)
    os.utime(keys_file, ns=(changed, changed))  # as when it could not be read, and may be now
    becomes(carol, 401)
    assert outdated(router) == 0


def test_a_file_that_is_removed_opens_nothing_and_locks_nobody_out(router: Harness, keys_file: Path) -> None:
    aside = keys_file.rename(keys_file.with_name("aside"))
    wait_for(lambda: outdated(router) == 1)
    assert ask(router, ALICE).status_code == 200
    assert ask(router, new_key()).status_code == 401
    aside.rename(keys_file)
    wait_for(lambda: outdated(router) == 0)
    assert ask(router, ALICE).status_code == 200


def outdated(router: Harness) -> float:
    page = httpx2.get(router.admin_url + "/metrics", headers={"x-api-key": ROOT}).text
    (value,) = re.findall(r"^caracal_gateway_api_keys_outdated\{.*\} (.+)$", page, re.M)
    return float(value)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10 * RELOAD_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
