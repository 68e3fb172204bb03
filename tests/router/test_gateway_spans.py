"""The gateway's spans, exported over HTTP, and what a collector that is away or hangs does to requests: nothing."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import grpc
import httpx2
import pytest
from support.fake_attention import Context, FakeAttention, answers_with
from support.gateway_assets import EOS
from support.gateway_harness import MODEL, Harness
from support.otlp_receiver import Received, traced_here, tracing_to

from services.process import tracing
from services.process.otel import EXPORTER_LOGGERS

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}


@contextmanager
def router(assets: Path) -> Iterator[Harness]:
    with Harness(assets, FakeAttention(answers_with([]))) as harness:
        harness.fakes[0].script = answers_with(harness.ids("hello world"), eos=EOS)
        yield harness


def test_spans_arrive_over_http(assets_path: Path) -> None:
    with traced_here() as (_, collector), router(assets_path) as harness:
        body = {"messages": [{"role": "user", "content": "hi"}], "n": 2, "max_tokens": 5, "temperature": 0.5}
        answer = httpx2.post(harness.url + "/v1/chat/completions", json=body, headers=PARENT | {"user-agent": "me"})
        assert answer.status_code == 200
        httpx2.get(harness.url + "/health", headers=PARENT)
        httpx2.post(harness.url + "/v1/chat/completions", json={"model": "other"}, headers=PARENT)

        def answered(spans: list[Received]) -> bool:
            return sum(span.kind == 2 for span in spans) == 2

        spans = collector.wait_for(answered, TRACE)
    served, rejected = sorted((span for span in spans if span.kind == 2), key=lambda span: span.began_ns)
    assert served.name == rejected.name == "POST /v1/chat/completions"
    assert served.attributes["gen_ai.operation.name"] == "chat"
    assert served.attributes["gen_ai.request.choice.count"] == 2
    assert served.attributes["gen_ai.request.temperature"] == 0.5
    assert served.attributes["gen_ai.response.finish_reasons"] == ["stop", "stop"]
    assert served.attributes["gen_ai.usage.output_tokens"] == answer.json()["usage"]["completion_tokens"]
    assert served.attributes["gen_ai.usage.input_tokens"] == answer.json()["usage"]["prompt_tokens"]
    assert served.attributes["user_agent.original"] == "me"
    assert (rejected.attributes["http.response.status_code"], rejected.failed) == (400, False)
    attempts = [span for span in spans if span.parent_id == served.span_id]
    assert [span.name for span in attempts] == ["attempt", "attempt"]
    assert {resource["service.instance.id"] for resource in collector.resources} == {"here"}


def test_workers_get_the_context_of_their_attempt(assets_path: Path) -> None:
    with traced_here() as (_, collector), router(assets_path) as harness:
        headers = PARENT | {"tracestate": "vendor=1"}
        httpx2.post(harness.url + "/v1/completions", json={"prompt": "hello"}, headers=headers)
        (attempt,) = collector.wait_for(lambda spans: [span for span in spans if span.name == "attempt"], TRACE)[:1]
        (request,) = harness.fakes[0].requests
        assert request.traceparent == f"00-{TRACE}-{attempt.span_id}-01"
        assert request.tracestate == "vendor=1"


def test_an_attempt_that_a_worker_rejects_fails_and_names_the_status(
    assets_path: Path,
) -> None:
    async def rejects(request: object, context: Context) -> object:
        await context.abort(grpc.StatusCode.INTERNAL, "broken")
        yield

    with traced_here() as (_, collector), router(assets_path) as harness:
        harness.fakes[0].script = rejects  # type: ignore[assignment]  # it yields nothing
        answer = httpx2.post(harness.url + "/v1/completions", json={"prompt": "hello"}, headers=PARENT)
        assert answer.status_code >= 500
        spans = collector.wait_for(lambda spans: [span for span in spans if span.kind == 2], TRACE)
    attempts = [span for span in spans if span.name == "attempt"]
    assert [span.attributes["caracal.attempt"] for span in attempts] == [1, 2]
    assert {(span.failed, span.attributes["error.type"]) for span in attempts} == {(True, "INTERNAL")}
    (request,) = (span for span in spans if span.kind == 2)
    assert (request.failed, request.attributes["http.response.status_code"]) == (True, answer.status_code)


@contextmanager
def closed() -> Iterator[str]:
    """An endpoint where nothing listens."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{reserved.getsockname()[1]}"


@contextmanager
def hanging() -> Iterator[str]:
    """An endpoint that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
@pytest.mark.parametrize("collector", [closed, hanging])
def test_a_collector_that_takes_nothing_costs_no_request(
    collector: Callable[[], AbstractContextManager[str]],
    protocol: str,
    assets_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:

    def lost() -> list[tuple[str, object]]:
        return [(record.name, record.msg) for record in caplog.records if record.name in EXPORTER_LOGGERS]

    with collector() as endpoint, tracing_to(endpoint, protocol), router(assets_path) as harness:
        answers, deadline = 0, time.monotonic() + 30
        while answers < 10 or not lost():
            assert time.monotonic() < deadline, "the log does not say that spans are lost"
            answer = httpx2.post(harness.url + "/v1/completions", json={"prompt": "hello"}, headers=PARENT)
            assert answer.json()["choices"][0]["finish_reason"] == "stop"
            answers += 1
            time.sleep(0.01)
        ending = time.monotonic()
    assert time.monotonic() < ending + 10, "the end waits for no collector"
    assert len(set(lost())) == len(lost()), "a message is not repeated"
    assert tracing.active() is None
    labels = {"model_name": MODEL, "finished_reason": "stop"}
    assert harness.metrics.registry.get_sample_value("caracal:request_success_total", labels) == answers


def test_the_models_name_is_in_the_span_and_no_text_is(assets_path: Path) -> None:
    with traced_here() as (_, collector), router(assets_path) as harness:
        httpx2.post(harness.url + "/v1/completions", json={"prompt": "secret words"}, headers=PARENT)
        spans = collector.wait_for(lambda spans: [span for span in spans if span.kind == 2], TRACE)
    (request,) = (span for span in spans if span.kind == 2)
    assert request.attributes["gen_ai.request.model"] == MODEL
    assert "secret" not in str(spans)
    assert "hello world" not in str(spans)
