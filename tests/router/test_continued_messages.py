"""An answer that continues the last message, as transformers renders it."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from support.fake_attention import answers_with
from support.gateway_assets import EOS
from support.gateway_harness import MODEL, Harness

ASKED: dict[str, Any] = {"role": "user", "content": "hi"}


def said(content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def ask(router: Harness, *messages: Any, **fields: Any) -> tuple[str, str]:
    """The prompt that the worker got, and the answer's text."""
    router.fakes[0].script = answers_with(router.ids(" world"), eos=EOS)
    body = {"continue_final_message": True, **fields}
    stream = bool(body.pop("stream", False))
    answer: Any = router.client().chat.completions.create(
        model=MODEL, messages=list(messages), extra_body=body, stream=stream
    )
    if stream:
        text = "".join(chunk.choices[0].delta.content or "" for chunk in answer)
    else:
        text = answer.choices[0].message.content
    return router.assets.tokenizer.decode(list(router.fakes[0].requests[-1].prompt_ids)), text


def prompt(router: Harness, *messages: Any, **fields: Any) -> str:
    return ask(router, *messages, **fields)[0]


@pytest.mark.parametrize(
    ("content", "end"),
    [
        ("hello", "hello"),
        ("hello ", "hello "),
        ("  hello\n", "  hello\n"),
        ("<", "<"),  # what the template writes after the message has these, too
        ("long", "long"),
        ("s", "s"),
        ([{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}], "hello"),
    ],
    ids=range(7),
)
def test_the_prompt_ends_within_the_message(router: Harness, content: Any, end: str) -> None:
    assert prompt(router, ASKED, said(content)) == f"[Round 0] USER:hi ASSISTANT:{end}"


def test_the_last_of_several_equal_texts_is_continued(router: Harness) -> None:
    text = prompt(router, ASKED, said("hello"), ASKED, said("hello"))
    assert text.count("hello") == 2
    assert text.endswith("ASSISTANT:hello")


@pytest.mark.parametrize("stream", [False, True])
def test_an_echo_begins_with_it(router: Harness, stream: bool) -> None:
    assert ask(router, ASKED, said("hello"), echo=True, stream=stream)[1] == "hello world"


@pytest.mark.parametrize("messages", [[ASKED], [ASKED, said("  ")], [ASKED, said(None)]], ids=range(3))
def test_what_cannot_be_continued_is_rejected(router: Harness, messages: list[Any]) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        prompt(router, *messages)
    assert caught.value.param == "continue_final_message"


def test_it_is_off_when_it_is_false(router: Harness) -> None:
    assert prompt(router, ASKED, continue_final_message=False).endswith("ASSISTANT:")
