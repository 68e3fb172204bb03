"""/ready says yes after a token has come through, and says why when none does; no metric of requests has the probe."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import httpx2
import pytest
from caracal_proto import attention_pb2
from support.cluster_harness import until
from support.fake_attention import FakeAttention, answers_with
from support.gateway_harness import MODEL, Harness

from services.router.requests.ready_probe import ReadyProbe


class ProbedRouter(Harness):
    """A router whose /ready asks a probe, which waits `token_s` for its token."""

    def __init__(self, assets: Path, *fakes: FakeAttention, idle_s: float = 0.0, token_s: float = 5.0) -> None:
        super().__init__(assets, *fakes)
        self._idle_s, self._token_s = idle_s, token_s
        self.waits = False

    async def _start(self) -> None:
        await super()._start()
        pool, tokens = self.serving.attention_workers, self.metrics.each_token
        self.probe = ReadyProbe(pool, lambda: tokens.tokens, self._idle_s, lambda: self.waits, self._token_s)
        self.unproven = lambda: self.probe.reason
        self._probing = asyncio.create_task(self.probe.run())

    def __enter__(self) -> ProbedRouter:
        super().__enter__()
        return self

    def stop(self, grace_s: float) -> None:
        self.do(self._end())
        super().stop(grace_s)

    async def _end(self) -> None:
        self._probing.cancel()

    def ready(self) -> tuple[int, dict[str, Any]]:
        answer = httpx2.get(self.url + "/ready")
        return answer.status_code, answer.json()

    def sample(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, {"model_name": MODEL})


async def breaks(request: attention_pb2.GenerateRequest, context: Any) -> AsyncIterator[attention_pb2.GenerateEvent]:
    await context.abort(grpc.StatusCode.INTERNAL, "a step failed")
    yield attention_pb2.GenerateEvent()


async def hangs(request: attention_pb2.GenerateRequest, context: Any) -> AsyncIterator[attention_pb2.GenerateEvent]:
    await asyncio.Event().wait()
    yield attention_pb2.GenerateEvent()


async def ends(request: attention_pb2.GenerateRequest, context: Any) -> AsyncIterator[attention_pb2.GenerateEvent]:
    yield attention_pb2.GenerateEvent(attempt=request.attempt, finish_reason="length")


def test_it_says_yes_after_one_token_and_counts_it_nowhere(assets_path: Path) -> None:
    fake = FakeAttention(answers_with([3]))
    with ProbedRouter(assets_path, fake) as router:
        until(lambda: router.ready()[0] == 200, "it is not ready")
        assert len(fake.requests) == 1
        assert fake.requests[0].probe
        assert fake.requests[0].sampling.max_tokens == 1
        for name in (
            "caracal:prompt_tokens_total",
            "caracal:generation_tokens_total",
            "caracal_gateway_attempts_total",
        ):
            assert router.sample(name) == 0, name
        assert httpx2.get(router.admin_url + "/load").json() == {"server_load": 0, "open_on": {}}


@pytest.mark.parametrize(
    ("script", "words"),
    [(breaks, "INTERNAL: a step failed"), (hangs, "within 0.2 s"), (ends, "without a token")],
)
def test_it_says_no_with_the_reason_until_a_token_comes(assets_path: Path, script: Any, words: str) -> None:
    fake = FakeAttention(script)
    with ProbedRouter(assets_path, fake, token_s=0.2) as router:
        until(lambda: words in router.ready()[1].get("reason", ""), "the reason is not given")
        status, body = router.ready()
        assert (status, body["error"]["code"]) == (503, "not_ready")
        assert "attention-0" in body["reason"]
        fake.script = answers_with([3])
        until(lambda: router.ready()[0] == 200, "it is not ready again")
        until(lambda: fake.running == 0, "a probe is left")


def test_it_probes_again_when_nothing_was_served_for_a_while(assets_path: Path) -> None:
    fake = FakeAttention(answers_with([3]))
    with ProbedRouter(assets_path, fake, idle_s=0.1, token_s=0.2) as router:
        until(lambda: router.ready()[0] == 200, "it is not ready")
        fake.script = hangs
        until(lambda: router.ready()[0] == 503, "the second probe does not show")
        fake.script = answers_with([3, 4, 5])
        router.client().completions.create(model=MODEL, prompt="x", max_tokens=3)
        until(lambda: router.ready()[0] == 200, "a served request is proof enough")


def test_requests_that_are_served_are_proof_enough(assets_path: Path) -> None:
    fake = FakeAttention(answers_with([3, 4]))
    with ProbedRouter(assets_path, fake, idle_s=3600) as router:
        until(lambda: router.ready()[0] == 200, "it is not ready")
        router.client().completions.create(model=MODEL, prompt="x", max_tokens=2)
        assert router.probe.probes == 1


def test_no_probe_is_made_while_answers_are_known_to_wait(assets_path: Path) -> None:
    fake = FakeAttention(answers_with([3]))
    with ProbedRouter(assets_path, fake, idle_s=0.05) as router:
        until(lambda: router.ready()[0] == 200, "it is not ready")
        router.waits = True
        until(lambda: fake.running == 0, "a probe runs")
        before = router.probe.probes
        fake.script = hangs
        router.do(asyncio.sleep(1.2))
        assert router.probe.probes <= before + 1
        assert router.ready()[0] == 200


def test_without_a_worker_it_says_so_and_probes_nothing(assets_path: Path) -> None:
    with ProbedRouter(assets_path) as router:
        assert router.ready()[1]["reason"] == "no attention worker"
        assert router.probe.probes == 0
