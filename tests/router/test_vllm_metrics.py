"""The metrics page under vLLM's names, in both formats, as autoscalers and endpoint pickers read it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx2
import pytest
from caracal_proto import attention_pb2
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain
from support.fake_attention import Context, FakeAttention, answers_with
from support.gateway_assets import EOS
from support.gateway_harness import MODEL, Harness

from services.router.requests.vllm_metrics import NAMES

# What the Gateway API inference extension's endpoint picker reads of a vLLM server, all of them gauges.
PICKER = ("vllm:num_requests_waiting", "vllm:num_requests_running", "vllm:kv_cache_usage_perc")
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@pytest.fixture(scope="module")
def used(assets_path: Path) -> Iterator[Harness]:
    """A router that has answered three requests and rejected none."""
    with Harness(assets_path, FakeAttention(answers_with([]), kv_pages=1000)) as harness:
        harness.fakes[0].script = answers_with(harness.ids("hello world"), eos=EOS)
        for tokens in (1, 8, 8):
            harness.client().completions.create(model=MODEL, prompt=[5, 6, 7], max_tokens=tokens)
        yield harness


def page(router: Harness, accept: str = "") -> dict[str, Metric]:
    answer = httpx2.get(router.admin_url + "/metrics", headers={"accept": accept})
    assert answer.headers["content-type"].startswith("application/openmetrics-text" if accept else "text/plain")
    return {family.name: family for family in (openmetrics if accept else plain)(answer.text)}


def samples(family: Metric) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    left_out = ("model_name", "engine")
    return {
        (s.name.partition(":")[2], tuple(sorted((k, v) for k, v in s.labels.items() if k not in left_out))): s.value
        for s in family.samples
        if not s.name.endswith("_created")
    }


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_vllms_names_have_the_values_of_ours(used: Harness, accept: str) -> None:
    families = page(used, accept)
    for name in NAMES:
        ours, vllms = families[f"caracal:{name}"], families[f"vllm:{name}"]
        assert (vllms.type, vllms.documentation) == (ours.type, ours.documentation)
        assert samples(ours).items() <= samples(vllms).items(), name
        assert all((s.labels["model_name"], s.labels["engine"]) == (MODEL, "0") for s in vllms.samples)
    assert families["vllm:time_to_first_token_seconds"].samples
    assert {name for name in families if name.startswith("vllm:")} == {
        *(f"vllm:{name}" for name in NAMES),
        "vllm:cache_config_info",
    }


def test_every_ending_is_counted_by_its_reason(used: Harness) -> None:
    found = samples(page(used)["vllm:request_success"])
    by_reason = {dict(labels)["finished_reason"]: value for (_, labels), value in found.items()}
    assert by_reason == {"stop": 2, "length": 1, "abort": 0, "error": 0}


def test_an_endpoint_picker_finds_its_gauges_and_the_cache(used: Harness) -> None:
    families = page(used)
    for name in PICKER:
        (sample,) = families[name].samples
        assert (families[name].type, sample.value) == ("gauge", 0)
    (info,) = families["vllm:cache_config_info"].samples
    assert (info.value, info.labels["block_size"], info.labels["num_gpu_blocks"]) == (1, "64", "1000")


def test_without_a_trace_there_is_no_exemplar(used: Harness) -> None:
    assert not [sample for family in page(used, OPENMETRICS).values() for sample in family.samples if sample.exemplar]


def test_drafts_are_counted_by_their_place(assets_path: Path) -> None:
    async def script(request: attention_pb2.GenerateRequest, _: Context) -> AsyncIterator[attention_pb2.GenerateEvent]:
        """Two steps: a draft of three of which two are right, and one of one that is wrong."""
        event = attention_pb2.GenerateEvent(attempt=request.attempt)
        event.tokens.add(index=0, id=5, drafted=3, draft_place=1)
        event.tokens.add(index=1, id=6, draft_place=2)
        event.tokens.add(index=2, id=7)
        yield event
        yield event  # again: what is dropped is not counted
        last = attention_pb2.GenerateEvent(attempt=request.attempt, finish_reason="length")
        last.tokens.add(index=3, id=8, drafted=1)
        yield last

    with Harness(assets_path, FakeAttention(script)) as harness:
        for stream in (False, True):
            answer = harness.client().completions.create(model=MODEL, prompt=[5, 6, 7], max_tokens=4, stream=stream)
            if stream:
                assert list(answer)
        families = page(harness)

        def counted(name: str) -> dict[str, float]:
            found = families[f"vllm:spec_decode_{name}"].samples
            return {s.labels.get("position", ""): s.value for s in found if s.name.endswith("_total")}

        assert counted("num_drafts") == {"": 4}
        assert counted("num_draft_tokens") == {"": 8}
        assert counted("num_accepted_tokens") == {"": 4}
        assert counted("num_accepted_tokens_per_pos") == {"0": 2, "1": 2}
