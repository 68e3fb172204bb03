"""What the worker had of a prompt in its cache, in each API's own words; and whose requests may share pages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx2
import openai
import pytest
from caracal_proto import attention_pb2, router_pb2
from caracal_proto.router_pb2_grpc import RouterStub
from support.fake_attention import FakeAttention, answers_with
from support.gateway_assets import EOS
from support.gateway_harness import MODEL, Harness

from services.router.access.keys import key_hash
from services.router.gateway.sampling import page_salt

PROMPT = [5, 6, 7, 8, 9]
CHAT: list[Any] = [{"role": "user", "content": "hello"}]


@pytest.fixture
def caching(router: Harness) -> Harness:
    router.fakes[0].script = answers_with(router.ids("hello world"), eos=EOS, cached=3)
    return router


def test_completions_and_chats(caching: Harness) -> None:
    client = caching.client()
    whole = client.completions.create(model=MODEL, prompt=PROMPT)
    chat = client.chat.completions.create(model=MODEL, messages=CHAT)
    for usage in (whole.usage, chat.usage):
        assert usage is not None
        assert usage.prompt_tokens_details is not None
        assert usage.prompt_tokens_details.cached_tokens == 3
        assert usage.prompt_tokens >= 3
    options: Any = {"include_usage": True, "continuous_usage_stats": True}
    chunks = list(client.completions.create(model=MODEL, prompt=PROMPT, stream=True, stream_options=options))
    assert {chunk.usage.prompt_tokens_details.cached_tokens for chunk in chunks if chunk.usage} == {3}  # type: ignore[union-attr]


def test_a_prompt_counts_once_whatever_its_choices_found(router: Harness) -> None:
    def script(request: attention_pb2.GenerateRequest, context: Any) -> Any:
        first = request.request_id.endswith(".0")
        return answers_with(router.ids("hi"), eos=EOS, cached=0 if first else 4)(request, context)

    router.fakes[0].script = script
    answer = router.client().completions.create(model=MODEL, prompt=[PROMPT, PROMPT[:4]], n=3)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 9
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 0, "the first choice computed it"


def test_responses(caching: Harness) -> None:
    answer = caching.client().responses.create(model=MODEL, input="hello", store=False)
    assert answer.usage is not None
    assert answer.usage.input_tokens_details.cached_tokens == 3


def test_messages_count_cached_tokens_apart(caching: Harness) -> None:
    client: Any = caching.anthropic()
    asked = {"model": MODEL, "max_tokens": 9, "messages": CHAT}
    tokens = client.messages.count_tokens(model=MODEL, messages=CHAT).input_tokens
    whole = client.messages.create(**asked).usage
    assert (whole.input_tokens, whole.cache_read_input_tokens) == (tokens - 3, 3)
    events = list(client.messages.create(**asked, stream=True))
    for usage in (events[0].message.usage, next(e for e in events if e.type == "message_delta").usage):
        assert (usage.input_tokens, usage.cache_read_input_tokens) == (tokens - 3, 3)


def test_the_grpc_gateway(caching: Harness) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{caching.servers.grpc_port}") as channel:
        sampling = attention_pb2.Sampling(max_tokens=9)
        request = router_pb2.TextRequest(prompt="hello", cache_salt="team", sampling=sampling)
        *_, last = RouterStub(channel).Generate(request, timeout=20)
    assert last.cached_tokens == 3
    assert caching.fakes[0].requests[-1].cache_salt == page_salt("team", "")


def test_the_metrics(caching: Harness) -> None:
    def read(name: str) -> float:
        lines = httpx2.get(caching.admin_url + "/metrics").text.splitlines()
        return float(next(line.split()[-1] for line in lines if line.startswith(f"{name}_total{{")))

    names = [f"{prefix}:prefix_cache_{kind}" for prefix in ("caracal", "vllm") for kind in ("queries", "hits")]
    before = [read(name) for name in names]
    caching.client().completions.create(model=MODEL, prompt=PROMPT)
    assert [read(name) - was for name, was in zip(names, before, strict=True)] == [5, 3, 5, 3]


def test_a_failover_does_not_change_what_was_cached(assets_path: Path) -> None:
    def dies(request: attention_pb2.GenerateRequest, context: Any) -> Any:
        async def script() -> Any:
            async for event in answers_with(ids, cached=2)(request, context):
                yield event
                await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")

        return script()

    first, second = FakeAttention(dies, "attention-0"), FakeAttention(answers_with([]), "attention-1")
    with Harness(assets_path, first, second) as router:
        ids = router.ids("hello big world")
        second.script = answers_with(ids, eos=EOS, cached=5)
        answer = router.client().completions.create(model=MODEL, prompt=PROMPT)
        assert (len(first.requests), len(second.requests)) == (1, 1)
        assert list(second.requests[0].emitted_ids) == ids[:1]
        assert second.requests[0].cache_salt == first.requests[0].cache_salt
        assert answer.usage is not None
        assert answer.usage.prompt_tokens_details is not None
        assert answer.usage.prompt_tokens_details.cached_tokens == 2


def test_without_keys_all_share_but_those_with_a_salt(router: Harness) -> None:
    client, sent = router.client(), router.fakes[0].requests
    client.completions.create(model=MODEL, prompt=PROMPT)
    client.completions.create(model=MODEL, prompt=PROMPT, extra_body={"cache_salt": "a"})
    client.chat.completions.create(model=MODEL, messages=CHAT, extra_body={"cache_salt": "a"})
    client.responses.create(model=MODEL, input="hi", store=False, extra_body={"cache_salt": "a"})
    client.completions.create(model=MODEL, prompt=PROMPT, extra_body={"cache_salt": "b"})
    plain, first, chat, response, other = (request.cache_salt for request in sent)
    assert plain == b""
    assert len(first) == 16
    assert first == chat == response != other


@pytest.mark.parametrize("salt", ["", 5, ["a"], "a" * 257])
def test_a_bad_salt_is_refused_by_name(router: Harness, salt: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="cache_salt"):
        router.client().completions.create(model=MODEL, prompt=PROMPT, extra_body={"cache_salt": salt})
    with pytest.raises(openai.BadRequestError, match="cache_salt"):
        router.client().responses.create(model=MODEL, input="hi", extra_body={"cache_salt": salt})


@pytest.fixture
def with_keys(assets_path: Path, tmp_path: Path) -> Iterator[Harness]:
    keys = tmp_path / "keys.toml"
    keys.write_text("".join(f'[{name}]\nsha256 = "{key_hash(name * 20)}"\n' for name in ("alice", "bob")))
    with Harness(assets_path, FakeAttention(answers_with([70], eos=EOS)), api_keys=keys) as harness:
        yield harness


def test_each_api_key_has_its_own_salt(with_keys: Harness) -> None:
    salts = []
    for name, more in (("alice", {}), ("bob", {}), ("alice", {}), ("alice", {"cache_salt": "x"}), ("bob", {})):
        body = {"model": MODEL, "prompt": PROMPT, "max_tokens": 2, **more}
        answer = httpx2.post(
            with_keys.url + "/v1/completions", json=body, headers={"authorization": f"Bearer {name * 20}"}
        )
        assert answer.status_code == 200, answer.text
        salts.append(with_keys.fakes[0].requests[-1].cache_salt)
    alice, bob, again, chosen, bob_again = salts
    assert alice == again
    assert bob == bob_again
    assert len({b"", alice, bob, chosen}) == 4


def test_no_chosen_salt_is_that_of_a_key() -> None:
    assert page_salt("key alice", "key bob") == page_salt("key alice", "") != page_salt(None, "key alice")
    assert page_salt(None, "") == b""
    salts = {page_salt(asked, key, secret) for asked in (None, "a") for key in ("", "a") for secret in (b"s", b"t")}
    assert len(salts) == 6, "a request's own salt replaces that of its key"
