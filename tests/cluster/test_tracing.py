"""One request as spans of three processes, received over OTLP."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import urllib.request
from collections import Counter
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from caracal_proto import router_pb2
from caracal_proto.router_pb2_grpc import RouterStub
from support.cluster_harness import ClusterUnderTest, running_cluster, sampling_of, until
from support.otlp_receiver import Collector, Received, grpc_collector

pytestmark = pytest.mark.processes

SERVER, CLIENT = 2, 3  # kinds of spans
TOKENS = 9  # a step with the prompt, eight with a token each
STEPS = [1, 2, 3, 4, 8]  # those that have a span
LAYERS = 3


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with grpc_collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def traced(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterUnderTest]:
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
    }
    yield from running_cluster(tmp_path_factory.mktemp("traced"), link="grpc", attention=2, environment=environment)


def complete(cluster: ClusterUnderTest, headers: dict[str, str], tokens: int = TOKENS) -> Iterator[dict[str, Any]]:
    """Streams one completion; yields its events."""
    body = {"prompt": "the cat sat on the mat", "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    request = urllib.request.Request(
        f"http://{cluster.records('router')[0].metrics_address}/v1/completions",
        json.dumps(body | {"stream": True}).encode(),
        {"content-type": "application/json"} | headers,
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        for line in answer:
            if line.startswith(b"data: {"):
                yield json.loads(line[6:])


def new_trace(sampled: bool = True) -> tuple[str, str, str]:
    """A client's trace id, its span's id, and both as a traceparent."""
    trace, span = secrets.token_hex(16), secrets.token_hex(8)
    return trace, span, f"00-{trace}-{span}-{'01' if sampled else '00'}"


def children(spans: list[Received], parent: Received, name: str) -> list[Received]:
    found = [span for span in spans if span.parent_id == parent.span_id and span.name == name]
    return sorted(found, key=lambda span: span.began_ns)


def whole(spans: list[Received]) -> bool:
    """Whether a request's span and, since expert workers export by themselves, everything below its steps is there."""
    names = Counter(span.name for span in spans)
    dispatched = sum(span.attributes["caracal.messages"] for span in spans if span.name == "dispatch")
    complete = names["step"] == len(STEPS) and names["dispatch"] == len(STEPS) * LAYERS
    below = complete and names["expert call"] == dispatched and names["decode"] == 1 and names["attempt"] == 1
    return below and {span.parent_id for span in spans if span.name == "attempt"} <= {span.span_id for span in spans}


@pytest.fixture(scope="module")
def tree(traced: ClusterUnderTest, collector: Collector) -> tuple[str, list[Received]]:
    """The span of a client, and all spans below it."""
    trace, client, traceparent = new_trace()
    assert list(complete(traced, {"traceparent": traceparent, "tracestate": "vendor=1"}))
    return client, collector.wait_for(whole, trace)


def test_the_gateway_continues_the_clients_trace(tree: tuple[str, list[Received]]) -> None:
    client, spans = tree
    (request,) = (span for span in spans if span.parent_id == client)
    assert (request.name, request.kind, request.service) == ("POST /v1/completions", SERVER, "caracal-router")
    assert not request.failed
    wanted = {
        "http.route": "/v1/completions",
        "http.response.status_code": 200,
        "gen_ai.operation.name": "text_completion",
        "gen_ai.usage.output_tokens": TOKENS,
        "gen_ai.response.finish_reasons": ["length"],
        "gen_ai.request.max_tokens": TOKENS,
    }
    assert wanted.items() <= request.attributes.items()
    assert request.attributes["gen_ai.usage.input_tokens"] > 0
    assert not re.search(r"\bcat\b|\bmat\b", json.dumps(request.attributes)), "no prompt is recorded"


def test_below_the_request_lie_attempt_sequence_and_its_phases(tree: tuple[str, list[Received]]) -> None:
    client, spans = tree
    (request,) = (span for span in spans if span.parent_id == client)
    (attempt,) = children(spans, request, "attempt")
    (sequence,) = children(spans, attempt, "sequence")
    assert (attempt.kind, sequence.kind) == (CLIENT, SERVER)
    assert (attempt.service, sequence.service) == ("caracal-router", "caracal-attention")
    assert attempt.attributes["caracal.worker_id"] == sequence.instance
    assert attempt.attributes["caracal.attempt"] == sequence.attributes["caracal.attempt"] == 1
    phases = [children(spans, sequence, name) for name in ("queue", "prefill", "decode")]
    (queue,), (prefill,), (decode,) = phases
    assert queue.began_ns <= queue.ended_ns == prefill.began_ns < prefill.ended_ns == decode.began_ns < decode.ended_ns
    assert sequence.ended_ns == decode.ended_ns


def test_some_steps_have_spans_with_the_dispatch_of_each_layer(tree: tuple[str, list[Received]]) -> None:
    _, spans = tree
    (sequence,) = (span for span in spans if span.name == "sequence")
    steps = children(spans, sequence, "step")
    first = steps[0].attributes["caracal.step"]
    assert [step.attributes["caracal.step"] - first + 1 for step in steps] == STEPS
    for step in steps:
        dispatches = children(spans, step, "dispatch")
        assert [dispatch.attributes["caracal.layer"] for dispatch in dispatches] == list(range(LAYERS))
        assert all(step.began_ns <= each.began_ns <= each.ended_ns <= step.ended_ns for each in dispatches)
        for dispatch in dispatches:
            calls = children(spans, dispatch, "expert call")
            assert len(calls) == dispatch.attributes["caracal.messages"]
            assert sum(call.attributes["caracal.rows"] for call in calls) == dispatch.attributes["caracal.rows"]
            assert {call.service for call in calls} <= {"caracal-expert"}
    assert [span for span in spans if span.name == "expert call"], "some layer has called an expert worker"


def test_resources_name_the_process(collector: Collector, tree: tuple[str, list[Received]]) -> None:
    assert all(resource["deployment.environment.name"] == "test" for resource in collector.resources)
    assert {"router-0", "expert-0"} <= {resource["service.instance.id"] for resource in collector.resources}


def test_a_trace_that_is_not_sampled_has_no_spans(traced: ClusterUnderTest, collector: Collector) -> None:
    unsampled, _, traceparent = new_trace(sampled=False)
    assert list(complete(traced, {"traceparent": traceparent}))
    later, _, traceparent = new_trace()
    assert list(complete(traced, {"traceparent": traceparent}))
    collector.wait_for(whole, later)
    assert collector.of_trace(unsampled) == []


def test_a_request_without_a_trace_begins_one(traced: ClusterUnderTest, collector: Collector) -> None:
    request_id = secrets.token_hex(8)
    assert list(complete(traced, {"x-request-id": request_id}))

    def its_own(spans: list[Received]) -> list[Received]:
        return [span for span in spans if span.attributes.get("caracal.request_id") == request_id]

    (root,) = its_own(collector.wait_for(its_own))
    assert root.parent_id == ""
    collector.wait_for(whole, root.trace_id)


def test_grpc_metadata_carries_a_trace(traced: ClusterUnderTest, collector: Collector) -> None:
    trace, client, traceparent = new_trace()
    request = router_pb2.TextRequest(prompt="the cat", sampling=sampling_of(0, TOKENS))
    with grpc.insecure_channel(traced.grpc_target) as channel:
        assert list(RouterStub(channel).Generate(request, metadata=(("traceparent", traceparent),), timeout=60))
    (root,) = (span for span in collector.wait_for(whole, trace) if span.parent_id == client)
    assert (root.name, root.attributes["rpc.method"]) == ("caracal.Router/Generate", "Generate")


def test_log_lines_have_the_ids_of_their_trace_and_request(traced: ClusterUnderTest, collector: Collector) -> None:
    trace, _, traceparent = new_trace()
    list(complete(traced, {"traceparent": traceparent, "x-request-id": "looked-for"}))
    log = traced.local.children["router-0"].log
    until(lambda: b"looked-for" in log.read_bytes(), "the request is not in the log")
    (line,) = (json.loads(line) for line in log.read_text().splitlines() if "looked-for" in line)
    assert (line["event"], line["trace_id"]) == ("request", trace)
    # The request's own span ends last.
    collector.wait_for(lambda spans: any(span.span_id == line["span_id"] for span in spans), trace)


def test_latencies_have_exemplars_of_sampled_traces(traced: ClusterUnderTest) -> None:
    trace, _, traceparent = new_trace()
    list(complete(traced, {"traceparent": traceparent}))
    address = f"http://{traced.records('router')[0].metrics_address}/metrics"
    accept = {"accept": "application/openmetrics-text; version=1.0.0"}
    with urllib.request.urlopen(urllib.request.Request(address, headers=accept)) as page:
        assert page.headers["content-type"].startswith("application/openmetrics-text")
        text = page.read().decode()
    assert text.endswith("# EOF\n")
    exemplars = re.findall(rf'^(\S+)_bucket{{.*}} \S+ # {{span_id="\w+",trace_id="{trace}"}}', text, re.MULTILINE)
    named = {
        f"caracal:{name}_seconds" for name in ("time_to_first_token", "inter_token_latency", "e2e_request_latency")
    }
    assert named <= set(exemplars)
    with urllib.request.urlopen(address) as page:
        assert b"trace_id" not in page.read(), "the old format has no exemplars"


def test_a_failover_is_a_second_attempt(traced: ClusterUnderTest, collector: Collector) -> None:
    trace, client, traceparent = new_trace()
    events = complete(traced, {"traceparent": traceparent}, 300)
    next(events)
    with urllib.request.urlopen(f"http://{traced.records('router')[0].metrics_address}/load") as page:
        (lost,) = (name for name, open_there in json.load(page)["open_on"].items() if open_there)
    os.kill(traced.local.children[lost].pid, signal.SIGKILL)
    assert [event["choices"][0]["finish_reason"] for event in events][-1] == "length"

    def both(spans: list[Received]) -> bool:
        return any(span.parent_id == client for span in spans) and any(span.name == "sequence" for span in spans)

    spans = collector.wait_for(both, trace)
    (request,) = (span for span in spans if span.parent_id == client)
    first, second = children(spans, request, "attempt")
    assert (first.failed, second.failed, request.failed) == (True, False, False)
    assert first.attributes["caracal.worker_id"] == lost != second.attributes["caracal.worker_id"]
    assert first.attributes["error.type"] == "UNAVAILABLE"
    assert second.attributes["caracal.emitted_tokens"] > 0
    (sequence,) = children(spans, second, "sequence")
    assert sequence.instance == second.attributes["caracal.worker_id"]
