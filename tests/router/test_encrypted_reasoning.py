"""Clients that keep nothing here pass reasoning back by its field encrypted_content, as agents do with OpenAI's API."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from support.fake_attention import FakeAttention, answers_with
from support.gateway_assets import EOS, TEMPLATE, write_assets
from support.gateway_harness import MODEL, Harness

from services.router.gateway.responses_api.reasoning_text import decoded, encoded

ENCRYPTED: Any = ["reasoning.encrypted_content"]
ASKED: Any = {"role": "user", "content": "weather?"}
THOUGHT = "so be it, 猫"


@pytest.fixture(scope="module")
def reasoning_router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    """A router whose template shows the reasoning of the history."""
    template = TEMPLATE.replace(
        "ASSISTANT:{{ message.content }}", "ASSISTANT:({{ message.reasoning }}){{ message.content }}"
    )
    path = write_assets(tmp_path_factory.mktemp("reasoning") / "model", template=template)
    with Harness(path, FakeAttention(answers_with([]))) as harness:
        answer = f"<longcat_think>{THOUGHT}</longcat_think>hello"
        harness.fakes[0].script = answers_with(harness.ids(answer), eos=EOS)
        yield harness


def respond(router: Harness, **options: Any) -> Any:
    fields: dict[str, Any] = {"model": MODEL, "input": [ASKED], "store": False, "include": ENCRYPTED}
    return router.client().responses.create(**(fields | options))


def prompt_of(router: Harness) -> str:
    return router.assets.tokenizer.decode(list(router.fakes[0].requests[-1].prompt_ids), skip_special_tokens=False)


@pytest.mark.parametrize("stream", [False, True])
def test_reasoning_passed_back_without_its_text(reasoning_router: Harness, stream: bool) -> None:
    router = reasoning_router
    if stream:
        events = list(respond(router, stream=True))
        (item,) = [
            one.item for one in events if one.type == "response.output_item.done" and one.item.type == "reasoning"
        ]
        reasoning, message = events[-1].response.output
        assert item == reasoning
    else:
        reasoning, message = respond(router).output
    assert reasoning.content[0].text == THOUGHT
    kept = {"type": "reasoning", "id": reasoning.id, "summary": [], "encrypted_content": reasoning.encrypted_content}
    respond(router, input=[ASKED, kept, message.to_dict(), ASKED])
    assert f"({THOUGHT})hello" in prompt_of(router)
    respond(router, input=[ASKED, reasoning.to_dict(), message.to_dict(), ASKED])
    assert prompt_of(router).count(f"({THOUGHT})hello") == 1


def test_nothing_is_encrypted_unless_it_is_asked_for(reasoning_router: Harness) -> None:
    reasoning, _ = respond(reasoning_router, include=None).output
    assert reasoning.encrypted_content is None
    both: Any = [*ENCRYPTED, "message.output_text.logprobs"]
    reasoning, message = respond(reasoning_router, include=both).output
    assert reasoning.encrypted_content
    assert message.content[0].logprobs


@pytest.mark.parametrize(
    "content", ["gAAAAABo", "caracal-reasoning:!!", "caracal-reasoning:/w==", "caracal-reasoning:YQ"]
)
def test_what_another_server_has_made_is_rejected_by_name(reasoning_router: Harness, content: str) -> None:
    item = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": content}
    with pytest.raises(openai.BadRequestError, match="this server has not made it") as caught:
        respond(reasoning_router, input=[ASKED, item, ASKED])
    assert caught.value.param == "input[1].encrypted_content"
    with_summary = item | {"summary": [{"type": "summary_text", "text": "in short"}]}
    respond(reasoning_router, input=[ASKED, with_summary, {"role": "assistant", "content": "a"}, ASKED])
    assert "(in short)a" in prompt_of(reasoning_router)


def test_texts_come_back_as_they_were() -> None:
    for text in ("", "a", THOUGHT, "\0\n" * 99):
        assert decoded(encoded(text)) == text
