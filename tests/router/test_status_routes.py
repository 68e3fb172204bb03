"""Health, readiness, models, load, metrics and the OpenAPI document."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
from fastapi.openapi.models import OpenAPI
from prometheus_client.parser import text_string_to_metric_families
from support.fake_attention import FakeAttention, answers_with
from support.gateway_assets import CONTEXT, EOS
from support.gateway_harness import MODEL, Harness

from services.membership.shortage import CapacityShortage


def get(router: Harness, path: str) -> httpx2.Response:
    return httpx2.get(router.admin_url + path)


def test_plain_routes(router: Harness) -> None:
    assert get(router, "/health").json() == {"status": "ok"}
    assert get(router, "/ping").status_code == 200
    assert isinstance(get(router, "/version").json()["version"], str)
    assert get(router, "/ready").json() == {"status": "ready"}
    assert get(router, "/load").json()["server_load"] == 0
    (card,) = get(router, "/v1/models").json()["data"]
    assert card == get(router, f"/v1/models/{MODEL}").json()
    assert (card["id"], card["object"], card["max_model_len"]) == (MODEL, "model", CONTEXT)


def test_ready_follows_the_workers(assets_path: Path) -> None:
    fake = FakeAttention(answers_with([70], eos=EOS))
    with Harness(assets_path, fake) as harness:

        def readiness(*workers: Any) -> tuple[int, str]:
            harness.directory.workers = list(workers)
            harness.do(harness.serving.attention_workers.refresh())
            answer = get(harness, "/ready")
            return answer.status_code, answer.json().get("reason", "")

        assert readiness(fake.record()) == (200, "")
        assert readiness(fake.record(epoch=0)) == (503, "no attention worker has a placement table yet")
        assert readiness(fake.record(draining=True)) == (503, "every attention worker is draining")
        assert get(harness, "/ready").json()["error"]["code"] == "not_ready"
        assert readiness() == (503, "no attention worker")
        assert get(harness, "/health").status_code == 200
        assert readiness(fake.record(epoch=0), fake.record(worker_id="b")) == (200, "")
        assert readiness() == (200, ""), "an empty list does not remove the workers at once"


def test_a_capacity_shortage_keeps_the_router_ready(router: Harness) -> None:
    try:
        router.shortage = CapacityShortage("no capacity")
        answer = get(router, "/ready")
        assert (answer.status_code, answer.json()) == (200, {"status": "ready", "warning": "no capacity"})
        router.shortage = CapacityShortage("no capacity", lost=3)
        answer = get(router, "/ready")
        warning = "3 experts are loaded on no worker, requests wait for them: no capacity"
        assert (answer.status_code, answer.json()) == (200, {"status": "degraded", "warning": warning})
    finally:
        router.shortage = None


def test_metrics_count_the_requests(assets_path: Path) -> None:
    fake = FakeAttention(answers_with([]))
    with Harness(assets_path, fake) as harness:
        ids = harness.ids("hello world")
        fake.script = answers_with(ids, eos=EOS)
        client = harness.client()
        for stream in (False, True):
            answer = client.completions.create(model=MODEL, prompt=[5, 6, 7], n=2, stream=stream)
            list(answer) if stream else None
        client.completions.create(model=MODEL, prompt=[5], max_tokens=1)
        httpx2.post(harness.url + "/v1/completions", json={"prompt": ""})
        samples = {
            (s.name, *(v for k, v in sorted(s.labels.items()) if k != "model_name")): s.value
            for family in text_string_to_metric_families(get(harness, "/metrics").text)
            for s in family.samples
        }
    assert samples["caracal:prompt_tokens_total",] == 4 * 3 + 1
    assert samples["caracal:generation_tokens_total",] == 4 * (len(ids) + 1) + 1
    assert samples["caracal:request_success_total", "stop"] == 4
    assert samples["caracal:request_success_total", "length"] == 1
    assert samples["caracal:num_requests_running",] == samples["caracal:num_requests_waiting",] == 0
    assert samples["caracal:time_to_first_token_seconds_count",] == 5
    assert samples["caracal:inter_token_latency_seconds_count",] == 4 * len(ids)
    assert samples["caracal:e2e_request_latency_seconds_count",] == 5
    assert samples["caracal:time_to_first_token_seconds_bucket", "0.001"] >= 0
    assert samples["caracal_gateway_attempts_total",] == 5
    assert samples["caracal_gateway_attention_workers",] == 1
    assert samples["caracal_gateway_http_requests_total", "POST", "/v1/completions", "200"] == 3
    assert samples["caracal_gateway_http_requests_total", "POST", "/v1/completions", "400"] == 1


def test_unknown_paths_share_one_label(router: Harness) -> None:
    for i in range(3):
        get(router, f"/made/up/{i}")
    assert "/made/up" not in get(router, "/metrics").text


def references(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*(references(child) for child in node.values()))
    return set().union(*(references(child) for child in node)) if isinstance(node, list) else set()


def test_the_openapi_document(router: Harness) -> None:
    document = get(router, "/openapi.json").json()
    OpenAPI.model_validate(document)
    assert document["openapi"].startswith("3.1")
    schemas = document["components"]["schemas"]
    assert references(document) <= {f"#/components/schemas/{name}" for name in schemas}
    bodies = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/tokenize", "/detokenize")
    for path in bodies:
        operation = document["paths"][path]["post"]
        name = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        assert schemas[name]["type"] == "object"
        assert operation["responses"]["400"]["content"]["application/json"]["schema"]["$ref"].endswith("ErrorBody")
    assert "422" not in str([op["responses"].keys() for ops in document["paths"].values() for op in ops.values()])
    assert {"messages", "max_completion_tokens", "top_k", "seed"} <= set(schemas["ChatRequest"]["properties"])
