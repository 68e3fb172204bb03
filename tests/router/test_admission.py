"""Admission: bounds, fairness between callers, early rejections in the shape of each API, over real sockets."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import httpx2
import pytest
from caracal_proto import router_pb2
from caracal_proto.router_pb2_grpc import RouterStub
from support.fake_attention import FakeAttention, answers_with
from support.gateway_assets import EOS
from support.gateway_harness import MODEL, Harness
from support.raw_http import Answer, exchange, post

from services.router.requests.admission import AdmissionLimits

LIGHT, HEAVY = "127.0.0.1", "127.0.0.2"
PLACES = 16
COMPLETION = json.dumps({"model": MODEL, "prompt": [5, 6], "max_tokens": 4}).encode()


class Gate:
    """A worker's script that answers once it is opened."""

    def __init__(self) -> None:
        self.open = False

    async def script(self, request: Any, context: Any) -> Any:
        import asyncio

        while not self.open:  # noqa: ASYNC110  tests open it from another thread
            await asyncio.sleep(0.005)
        async for event in answers_with([70, 71], eos=EOS)(request, context):
            yield event


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def harness(assets_path: Path, gate: Gate) -> Iterator[Harness]:
    fake = FakeAttention(gate.script, places=PLACES)
    limits = AdmissionLimits(queue_timeout_s=20.0, max_sequences=64)
    with Harness(assets_path, fake, limits=limits) as harness:
        yield harness


class Callers:
    """Requests from chosen addresses, each on a connection of its own."""

    def __init__(self, harness: Harness) -> None:
        self._port = harness.servers.http_port
        self._pool = ThreadPoolExecutor(200)
        self.running: list[Any] = []

    def send(self, source: str, body: bytes = COMPLETION, path: str = "/v1/completions") -> Any:
        return self._pool.submit(self.ask, source, body, path)

    def ask(self, source: str, body: bytes = COMPLETION, path: str = "/v1/completions") -> Answer:
        with socket.create_connection(("127.0.0.1", self._port), timeout=30, source_address=(source, 0)) as connection:
            connection.sendall(post(path, body))
            return Answer.read(connection)


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.005)


def gauge(harness: Harness, name: str) -> float:
    return harness.metrics.registry.get_sample_value(name) or 0.0


def test_a_crowd_waits_in_the_router_and_the_worker_gets_only_what_it_can_run(harness: Harness, gate: Gate) -> None:
    callers = Callers(harness)
    answers = [callers.send(HEAVY) for _ in range(30)]
    wait_until(lambda: gauge(harness, "caracal_gateway_queued_sequences") == 30 - (PLACES - 1))
    wait_until(lambda: harness.fakes[0].running == PLACES - 1)  # one place is kept for others
    light = callers.send(LIGHT)
    wait_until(lambda: harness.fakes[0].running == PLACES)
    gate.open = True
    assert light.result(10).status == 200
    assert {one.result(10).status for one in answers} == {200}
    wait_until(lambda: gauge(harness, "caracal_gateway_places_used") == 0)


def test_a_caller_over_its_share_gets_429_at_once_and_another_is_served(harness: Harness, gate: Gate) -> None:
    callers = Callers(harness)
    answers = [callers.send(HEAVY) for _ in range(32)]
    wait_until(lambda: len(harness.serving.open_streams) == 32)
    for path, body in (
        ("/v1/completions", COMPLETION),
        ("/v1/chat/completions", json.dumps({"messages": [{"role": "user", "content": "hi"}]}).encode()),
        ("/tokenize", json.dumps({"prompt": "hi"}).encode()),
    ):
        began = time.monotonic()
        refused = callers.ask(HEAVY, body, path)
        assert time.monotonic() - began < 1
        assert (refused.status, refused.error["code"]) == (429, "rate_limit_exceeded")
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.headers["x-request-id"]
    light = callers.send(LIGHT)
    gate.open = True
    assert light.result(10).status == 200
    assert {one.result(10).status for one in answers} == {200}
    assert callers.ask(HEAVY).status == 200, "afterwards there is room again"


def test_a_full_cluster_refuses_with_503_in_the_shape_of_each_api(harness: Harness, gate: Gate) -> None:
    callers = Callers(harness)
    answers = [callers.send(f"127.0.0.{2 + number % 4}") for number in range(64)]
    wait_until(lambda: len(harness.serving.open_streams) >= 56)
    full = callers.ask("127.0.0.9", json.dumps({"prompt": [5], "n": 8}).encode())
    assert (full.status, full.error["code"]) == (503, "overloaded")
    assert int(full.headers["retry-after"]) >= 1
    message = {"model": MODEL, "max_tokens": 3, "messages": [{"role": "user", "content": "hi"}]}
    while (one := callers.ask("127.0.0.2", json.dumps(message).encode(), "/v1/messages")).status not in (429, 503):
        pass
    assert json.loads(one.body)["error"]["type"] in ("rate_limit_error", "overloaded_error")
    assert one.headers["request-id"] == json.loads(one.body)["request_id"]
    gate.open = True
    done = [answer.result(10).status for answer in answers]
    assert set(done) <= {200, 429, 503}
    assert done.count(200) >= 56


def test_bodies_that_are_only_announced_take_no_room_from_others(harness: Harness, gate: Gate) -> None:
    gate.open = True
    announced = post("/v1/completions", COMPLETION + b" " * ((4 << 20) - len(COMPLETION)))[:400]
    with ExitStack() as stack:
        for number in range(24):  # three callers, of which each would hold half of the bytes
            source = (f"127.0.0.{2 + number % 3}", 0)
            address = "127.0.0.1", harness.servers.http_port
            stack.enter_context(socket.create_connection(address, source_address=source)).sendall(announced)
        wait_until(lambda: harness.serving.admission.held("sequences") == 24)
        whole = Callers(harness).ask(LIGHT, COMPLETION + b" " * ((4 << 20) - len(COMPLETION)))
        assert whole.status == 200
    wait_until(lambda: harness.serving.admission.held("bytes") == 0)


def test_a_body_for_which_others_leave_no_room_is_refused_while_it_comes(assets_path: Path, gate: Gate) -> None:
    gate.open = True
    large = COMPLETION + b" " * ((4 << 20) - len(COMPLETION))
    with Harness(assets_path, FakeAttention(gate.script, places=PLACES)) as harness, ExitStack() as stack:
        address = "127.0.0.1", harness.servers.http_port
        held = harness.serving.admission.held

        def begun(source: str, data: bytes) -> socket.socket:
            one = stack.enter_context(socket.create_connection(address, source_address=(source, 0)))
            one.sendall(data)
            return one

        request = post("/v1/completions", large)
        late = begun("127.0.0.9", request[:1000])
        for number in range(14):  # all but their last bytes
            begun(f"127.0.0.{2 + number % 7}", request[:-5000])
        wait_until(lambda: held("bytes") > 13.9 * len(large))
        assert harness.serving.admission.hurried
        assert Callers(harness).ask("127.0.0.10", large).status == 503, "at once"
        late.sendall(request[1000:])
        refused = Answer.read(late)
        assert (refused.status, refused.error["code"]) == (503, "overloaded")
        assert Callers(harness).ask(LIGHT).status == 200, "a small one is served"
    assert held("bytes") == 0


@pytest.mark.parametrize(("proxies", "callers"), [("", 1), ("10.0.0.0/8", 1), ("127.0.0.1", 3)])
def test_only_a_proxy_that_is_named_says_for_whom_it_asks(
    assets_path: Path, monkeypatch: pytest.MonkeyPatch, proxies: str, callers: int
) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", proxies)
    with Harness(assets_path, FakeAttention(answers_with([70], eos=EOS))) as harness:
        for name in ("192.0.2.1", "2001:db8::1", "2001:db8::2", "made up", "key alice"):
            request = post("/v1/completions", COMPLETION, extra=f"x-forwarded-for: {name}\r\n")
            assert exchange(harness, request).status == 200
        assert len({request.caller for request in harness.fakes[0].requests}) == callers


def test_grpc_callers_are_refused_with_resource_exhausted(harness: Harness, gate: Gate) -> None:
    callers = Callers(harness)
    answers = [callers.send(LIGHT) for _ in range(32)]
    wait_until(lambda: len(harness.serving.open_streams) == 32)
    with grpc.insecure_channel(f"127.0.0.1:{harness.servers.grpc_port}") as channel:
        request = router_pb2.TextRequest(prompt="hi")
        with pytest.raises(grpc.RpcError) as caught:
            list(RouterStub(channel).Generate(request, timeout=10))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        metadata = {one.key: one.value for one in caught.value.trailing_metadata()}
        assert int(metadata["retry-after"]) >= 1
        gate.open = True
        assert {one.result(10).status for one in answers} == {200}
        assert list(RouterStub(channel).Generate(request, timeout=10))


def test_every_sequence_of_a_request_counts(harness: Harness, gate: Gate) -> None:
    callers = Callers(harness)
    many = callers.send(HEAVY, json.dumps({"prompt": [[5]] * 16, "n": 2, "max_tokens": 3}).encode())
    wait_until(lambda: harness.fakes[0].running == PLACES - 1)
    assert callers.ask(HEAVY).status == 429
    gate.open = True
    assert len(json.loads(many.result(10).body)["choices"]) == 32


def test_no_single_request_takes_all_the_room(harness: Harness, gate: Gate) -> None:
    callers = Callers(harness)
    many = callers.send(HEAVY, json.dumps({"prompt": [[5]] * 64, "max_tokens": 3}).encode())
    wait_until(lambda: harness.fakes[0].running == PLACES - 1)
    assert callers.ask(HEAVY).status == 429
    light = callers.send(LIGHT)
    wait_until(lambda: harness.fakes[0].running == PLACES)
    gate.open = True
    assert light.result(10).status == 200
    assert len(json.loads(many.result(10).body)["choices"]) == 64


@pytest.mark.parametrize(("prompts", "n"), [(128, 8), (128, 2), (17, 8)])
def test_prompts_times_n_are_bounded_before_any_work(harness: Harness, prompts: int, n: int) -> None:
    answer = httpx2.post(harness.url + "/v1/completions", json={"prompt": ["x" * 4000] * prompts, "n": n})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "n"
    assert not harness.fakes[0].requests


def test_who_waits_too_long_gets_503(assets_path: Path, gate: Gate) -> None:
    limits = AdmissionLimits(queue_timeout_s=0.3)
    with Harness(assets_path, FakeAttention(gate.script, places=1), limits=limits) as harness:
        callers = Callers(harness)
        first = callers.send(LIGHT)
        wait_until(lambda: harness.fakes[0].running == 1)
        late = callers.ask(HEAVY)
        assert (late.status, late.error["code"]) == (503, "overloaded")
        gate.open = True
        assert first.result(10).status == 200, "what has begun goes on"


def test_a_client_that_leaves_the_queue_is_forgotten(harness: Harness, gate: Gate) -> None:
    callers = Callers(harness)
    answers = [callers.send(LIGHT) for _ in range(PLACES - 1)]
    wait_until(lambda: harness.fakes[0].running == PLACES - 1)
    with socket.create_connection(("127.0.0.1", harness.servers.http_port)) as connection:
        connection.sendall(post("/v1/completions", COMPLETION))
        wait_until(lambda: gauge(harness, "caracal_gateway_queued_sequences") == 1)
    wait_until(lambda: gauge(harness, "caracal_gateway_queued_sequences") == 0)
    gate.open = True
    assert {one.result(10).status for one in answers} == {200}
    assert len(harness.fakes[0].requests) == PLACES - 1


def test_a_shutdown_ends_what_waits(harness: Harness) -> None:
    callers = Callers(harness)
    answers = [callers.send(LIGHT) for _ in range(PLACES + 4)]
    wait_until(lambda: gauge(harness, "caracal_gateway_queued_sequences") == 5)
    stopping = threading.Thread(target=lambda: harness.stop(0.1))
    stopping.start()
    assert {one.result(10).error["code"] for one in answers} == {"shutting_down"}
    stopping.join()


def test_a_worker_that_is_busy_is_asked_again_and_nothing_is_lost(assets_path: Path, gate: Gate) -> None:
    gate.open = True
    tries = 0

    async def busy_at_first(request: Any, context: Any) -> Any:
        nonlocal tries
        tries += 1
        if tries < 5:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "busy: 128 sequences are open")
        async for event in gate.script(request, context):
            yield event

    with Harness(assets_path, FakeAttention(busy_at_first)) as harness:
        assert Callers(harness).ask(LIGHT).status == 200
    assert tries == 5


def test_a_worker_that_dies_under_a_crowd_takes_no_accepted_request_with_it(assets_path: Path, gate: Gate) -> None:
    fakes = [FakeAttention(gate.script, worker_id=f"attention-{number}", places=PLACES) for number in range(2)]
    with Harness(assets_path, *fakes) as harness:
        callers = Callers(harness)
        answers = [callers.send(HEAVY) for _ in range(60)]
        wait_until(lambda: gauge(harness, "caracal_gateway_queued_sequences") == 60 - 2 * (PLACES - 1))
        wait_until(lambda: fakes[0].running > 0)
        harness.directory.workers = [fakes[1].record()]
        harness.do(fakes[0].stop())
        gate.open = True
        assert {one.result(20).status for one in answers} == {200}
        assert {json.loads(one.result().body)["choices"][0]["finish_reason"] for one in answers} == {"stop"}
