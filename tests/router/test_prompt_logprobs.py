"""Log-probabilities of prompts over HTTP: in OpenAI's echo and in vLLM's field, as lm-eval reads them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from support.engine_attention import EngineAttention
from support.gateway_harness import MODEL, Harness

TEXT = "the cat sat on the mat, hello world 猫"


@pytest.fixture(scope="module")
def random_model(assets_path: Path) -> Iterator[Harness]:
    with Harness(assets_path, EngineAttention(assets_path)) as harness:
        yield harness


def complete(harness: Harness, **fields: Any) -> Any:
    extra = {name: fields.pop(name) for name in list(fields) if name in ("prompt_logprobs", "return_token_ids")}
    return harness.client().completions.create(**{"model": MODEL, "prompt": TEXT, **fields}, extra_body=extra)


def test_echo_scores_the_prompt(random_model: Harness) -> None:
    choice = complete(random_model, echo=True, logprobs=2, max_tokens=0).choices[0]
    ids = random_model.assets.encode(TEXT)
    assert choice.text == TEXT
    assert choice.finish_reason == "length"
    shown = choice.logprobs
    assert shown is not None
    assert shown.tokens is not None
    assert shown.token_logprobs is not None
    assert shown.top_logprobs is not None
    assert len(shown.tokens) == len(shown.token_logprobs) == len(shown.top_logprobs) == len(ids)
    assert shown.token_logprobs[0] is None
    assert shown.top_logprobs[0] is None
    assert all(value < 0 for value in shown.token_logprobs[1:])
    assert shown.tokens[0] == "<longcat_s>"
    assert "".join(part for part in shown.tokens[1:] if not part.startswith("bytes:")).startswith("the cat sat")
    assert shown.text_offset is not None
    assert shown.text_offset[:2] == [0, 0]
    assert all(TEXT[at:].startswith(name) for at, name in zip(shown.text_offset[1:8], shown.tokens[1:8], strict=True))


def test_what_lm_eval_asks_for(random_model: Harness) -> None:
    """The sum over a continuation, whichever way the prompt is sent, is that of its tokens' own scores."""
    ids = random_model.assets.encode(TEXT)
    fields: dict[str, Any] = {"echo": True, "logprobs": 1, "max_tokens": 1, "temperature": 0, "seed": 1234}
    both = complete(random_model, prompt=[ids, ids[:9]], **fields).choices
    for choice, prompt in zip(both, (ids, ids[:9]), strict=True):
        assert choice.logprobs is not None
        assert choice.logprobs.token_logprobs is not None
        assert choice.logprobs.top_logprobs is not None
        values, top = choice.logprobs.token_logprobs[4:-1], choice.logprobs.top_logprobs[4:-1]
        assert len(values) == len(prompt) - 4
        greedy = [value == max(scores.values()) for value, scores in zip(values, top, strict=True)]
        assert len(greedy) == len(values)
    assert both[0].logprobs is not None
    assert both[1].logprobs is not None
    assert (both[0].logprobs.token_logprobs or [])[:9] == (both[1].logprobs.token_logprobs or [])[:9]


def test_vllms_field(random_model: Harness) -> None:
    answer = complete(random_model, prompt_logprobs=3, max_tokens=2)
    first, *scores = answer.choices[0].model_extra["prompt_logprobs"]
    ids = random_model.assets.encode(TEXT)
    assert first is None
    assert len(scores) == len(ids) - 1
    for token_id, found in zip(ids[1:], scores, strict=True):
        assert 3 <= len(found) <= 4
        own = found[str(token_id)]
        assert own["rank"] >= 1
        assert sorted(one["rank"] for one in found.values())[:3] == [1, 2, 3]
        assert own["logprob"] == min(one["logprob"] for one in found.values()) or own["rank"] < 3
    bare = complete(random_model, prompt_logprobs=0, max_tokens=1).choices[0].model_extra or {}
    assert all(len(one) == 1 for one in bare["prompt_logprobs"][1:])


def test_a_chat_has_them_once(random_model: Harness) -> None:
    answer = random_model.client().chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": TEXT}],
        n=2,
        max_tokens=2,
        extra_body={"prompt_logprobs": 0},
    )
    found = (answer.model_extra or {})["prompt_logprobs"]
    assert answer.usage is not None
    assert len(found) == answer.usage.prompt_tokens
    assert "prompt_logprobs" not in (answer.choices[0].model_extra or {})


def test_a_stream_begins_with_the_echo(random_model: Harness) -> None:
    fields: dict[str, Any] = {"echo": True, "logprobs": 1, "max_tokens": 5, "seed": 9}
    whole = complete(random_model, **fields).choices[0]
    chunks = [chunk.choices[0] for chunk in complete(random_model, stream=True, **fields)]
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert whole.logprobs is not None
    for name in ("tokens", "token_logprobs", "text_offset"):
        parts = [part for chunk in chunks if chunk.logprobs for part in getattr(chunk.logprobs, name)]
        assert parts == getattr(whole.logprobs, name)


def test_nothing_but_an_echo(random_model: Harness) -> None:
    choice = complete(random_model, echo=True, max_tokens=0).choices[0]
    assert (choice.text, choice.finish_reason, choice.logprobs) == (TEXT, "length", None)


def test_a_long_prompt_comes_in_parts(random_model: Harness) -> None:
    ids = [5 + i % 90 for i in range(400)]
    shown = complete(random_model, prompt=ids, echo=True, logprobs=0, max_tokens=0).choices[0].logprobs
    assert shown is not None
    assert len(shown.token_logprobs or []) == 400
    again = complete(random_model, prompt=ids[:200], echo=True, logprobs=0, max_tokens=0).choices[0].logprobs
    assert again is not None
    assert (again.token_logprobs or []) == (shown.token_logprobs or [])[:200]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt_logprobs": 20}, "prompt_logprobs"),
        ({"echo": True, "logprobs": 20}, "logprobs"),
        ({"prompt_logprobs": 20, "n": 8}, "prompt_logprobs"),
    ],
)
def test_more_scores_than_an_answer_may_have(random_model: Harness, fields: dict[str, Any], param: str) -> None:
    prompts = [[5] * 200] * (128 // fields.get("n", 1))
    answer = httpx2.post(
        f"{random_model.url}/v1/completions", json={"model": MODEL, "prompt": prompts, "max_tokens": 1, **fields}
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert "log-probabilities" in answer.json()["error"]["message"]
