"""Router.Generate: text or messages in, text out, with the checks of the HTTP routes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from caracal_proto import attention_pb2, router_pb2, router_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from support.fake_attention import answers_with
from support.gateway_assets import BOS, EOS
from support.gateway_harness import MODEL, Harness

Sampling = attention_pb2.Sampling


@pytest.fixture
def channel(router: Harness) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{router.servers.grpc_port}") as opened:
        yield opened


def generate(channel: grpc.Channel, request: router_pb2.TextRequest) -> list[router_pb2.TextEvent]:
    return list(router_pb2_grpc.RouterStub(channel).Generate(request, timeout=20))


def test_a_prompt(router: Harness, channel: grpc.Channel) -> None:
    events = generate(channel, router_pb2.TextRequest(prompt="a", sampling=Sampling(max_tokens=40, temperature=0.5)))
    assert "".join(event.text for event in events) == "hello world"
    ids = [*router.ids("hello world"), EOS]
    assert [(token.index, token.id) for event in events for token in event.tokens] == list(enumerate(ids))
    assert all(token.logits_checksum for event in events for token in event.tokens)
    assert [event.finish_reason for event in events if event.finish_reason] == ["stop"]
    assert (events[-1].prompt_tokens, events[-1].completion_tokens) == (1 + len(router.ids("a")), len(ids))
    assert events[0].system_fingerprint == "caracal-fake"
    sent = router.fakes[0].requests[0]
    assert list(sent.prompt_ids) == [BOS, *router.ids("a")]
    assert (sent.sampling.temperature, sent.sampling.top_p, sent.sampling.repetition_penalty) == (0.5, 1.0, 1.0)
    assert sent.sampling.seed != 0


def test_messages_and_stop_strings(router: Harness, channel: grpc.Channel) -> None:
    messages = json.dumps([{"role": "user", "content": "hi"}])
    request = router_pb2.TextRequest(model=MODEL, messages_json=messages, stop=["o w"], sampling=Sampling(seed=9))
    assert "".join(event.text for event in generate(channel, request)) == "hell"
    sent = router.fakes[0].requests[0]
    assert router.assets.tokenizer.decode(list(sent.prompt_ids)) == "[Round 0] USER:hi ASSISTANT:"
    assert (sent.sampling.seed, sent.sampling.temperature) == (9, 0.0)


def test_logprobs(router: Harness, channel: grpc.Channel) -> None:
    sampling = Sampling(logprobs=True, top_logprobs=3)
    events = generate(channel, router_pb2.TextRequest(prompt="a", sampling=sampling))
    assert {len(token.top) for event in events for token in event.tokens} == {3}


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (router_pb2.TextRequest(), grpc.StatusCode.INVALID_ARGUMENT),
        (router_pb2.TextRequest(prompt=""), grpc.StatusCode.INVALID_ARGUMENT),
        (router_pb2.TextRequest(prompt="a", model="other"), grpc.StatusCode.NOT_FOUND),
        (router_pb2.TextRequest(prompt="a" * 5000), grpc.StatusCode.INVALID_ARGUMENT),
        (router_pb2.TextRequest(messages_json="{}"), grpc.StatusCode.INVALID_ARGUMENT),
        (router_pb2.TextRequest(messages_json="[" * 100_000), grpc.StatusCode.INVALID_ARGUMENT),
        (router_pb2.TextRequest(prompt="a", stop=["b"] * 65), grpc.StatusCode.INVALID_ARGUMENT),
        (
            router_pb2.TextRequest(prompt="a", sampling=Sampling(temperature=float("nan"))),
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
        (router_pb2.TextRequest(prompt="a", sampling=Sampling(temperature=-1)), grpc.StatusCode.INVALID_ARGUMENT),
        (router_pb2.TextRequest(prompt="a", sampling=Sampling(top_p=2)), grpc.StatusCode.INVALID_ARGUMENT),
        (router_pb2.TextRequest(prompt="a", sampling=Sampling(max_tokens=2**32 - 1)), grpc.StatusCode.INVALID_ARGUMENT),
        (router_pb2.TextRequest(prompt="a", sampling=Sampling(stop_ids=[2**32 - 1])), grpc.StatusCode.INVALID_ARGUMENT),
    ],
    ids=range(12),
)
def test_bad_requests(channel: grpc.Channel, request_: router_pb2.TextRequest, code: grpc.StatusCode) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        generate(channel, request_)
    assert caught.value.code() is code
    metadata = {item.key: item.value for item in caught.value.trailing_metadata() or ()}
    error = json.loads(metadata["caracal-error"])
    assert set(error) == {"message", "type", "param", "code"}


def test_a_client_that_cancels_frees_the_worker(router: Harness, channel: grpc.Channel) -> None:
    fake = router.fakes[0]
    fake.script = answers_with([70] * 400, pause=0.02)
    before = fake.cancelled
    call = router_pb2_grpc.RouterStub(channel).Generate(router_pb2.TextRequest(prompt="a"))
    next(call)
    call.cancel()
    deadline = time.monotonic() + 10
    while fake.cancelled == before and time.monotonic() < deadline:
        time.sleep(0.005)
    assert fake.cancelled == before + 1
    assert not router.serving.open_streams


def test_health_and_reflection(channel: grpc.Channel) -> None:
    health: Any = health_pb2_grpc.HealthStub(channel)
    for name in ("", "caracal.Router"):
        reply = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    (listing,) = reflection.ServerReflectionInfo(asked, timeout=10)
    names = {service.name for service in listing.list_services_response.service}
    assert {"caracal.Router", "grpc.health.v1.Health"} <= names
