"""What a model writes, through the official client: tags as tokens and as text, characters as several byte tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.byte_fallback import byte_fallback_tokenizer
from support.fake_attention import FakeAttention, answers_with
from support.gateway_assets import EOS, TAGS, write_assets
from support.gateway_harness import MODEL, Harness

HI: list[Any] = [{"role": "user", "content": "hi"}]
PROPERTIES = {"text": {"type": "string"}, "count": {"type": "integer"}}
TOOLS: list[Any] = [{"type": "function", "function": {"name": "say", "parameters": {"properties": PROPERTIES}}}]
THINK, END_THINK, TOOL, END_TOOL = "<longcat_think>", "</longcat_think>", "<longcat_tool_call>", "</longcat_tool_call>"
QUOTED = f"a call ends with {END_TOOL}"
CALL = f'{TOOL}\n{{"name": "say", "arguments": {json.dumps({"text": QUOTED})}}}\n'
NO_ARGUMENTS = f'{TOOL}{{"name": "say", "arguments": null}}{END_TOOL}'


def assets(path: Path, tags: str) -> Path:
    """Writes a model directory whose tokenizer has the tags as tokens, as special tokens, or not at all."""
    write_assets(path)
    raw = json.loads((path / "tokenizer.json").read_text())
    for token in raw["added_tokens"]:
        token["special"] = token["special"] or tags == "special"
    raw["added_tokens"] = [token for token in raw["added_tokens"] if tags != "text" or token["content"] not in TAGS]
    (path / "tokenizer.json").write_text(json.dumps(raw))
    return path


@pytest.fixture(scope="module", params=["tokens", "special", "text"])
def output_router(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    path = assets(tmp_path_factory.mktemp("model"), request.param)
    with Harness(path, FakeAttention(answers_with([]))) as harness:
        yield harness


@pytest.fixture(scope="module")
def bytes_router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    path = write_assets(tmp_path_factory.mktemp("model"))
    tokenizer = byte_fallback_tokenizer()
    tokenizer.save(str(path / "tokenizer.json"))
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"vocab_size": tokenizer.get_vocab_size() + 8}))
    with Harness(path, FakeAttention(answers_with([]))) as harness:
        yield harness


def spelled_ids(router: Harness, text: str) -> list[int]:
    """Returns ids of a text in which no tag is a token."""
    return [token_id for char in text for token_id in router.ids(char)]


def answer(router: Harness, *, stream: bool, **options: Any) -> tuple[Any, str]:
    """Returns (message, finish reason) of a chat."""
    client = router.client()
    if stream:
        with client.chat.completions.stream(model=MODEL, messages=HI, **options) as events:
            choice: Any = events.get_final_completion().choices[0]
    else:
        choice = client.chat.completions.create(model=MODEL, messages=HI, **options).choices[0]
    return choice.message, choice.finish_reason


def calls_of(message: Any) -> list[Any]:
    return [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls or []]


@pytest.mark.parametrize("stream", [False, True])
def test_calls_whose_arguments_quote_a_tag(output_router: Harness, stream: bool) -> None:
    router = output_router
    quoting = [*router.ids(TOOL), *spelled_ids(router, CALL.removeprefix(TOOL)), *router.ids(END_TOOL)]
    ids = [*router.ids("before "), *quoting, *router.ids("\nand after"), *quoting, *router.ids(f"\n{NO_ARGUMENTS}\n")]
    router.fakes[0].script = answers_with(ids, eos=EOS)
    message, reason = answer(router, stream=stream, tools=TOOLS)
    assert calls_of(message) == [("say", {"text": QUOTED}), ("say", {"text": QUOTED}), ("say", {})]
    assert message.content == "before \nand after"
    assert reason == "tool_calls"


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_in_reasoning_is_reasoning(output_router: Harness, stream: bool) -> None:
    router = output_router
    router.fakes[0].script = answers_with(router.ids(f"{THINK}{THINK}or {NO_ARGUMENTS}?{END_THINK}\nNo."), eos=EOS)
    message, reason = answer(router, stream=stream, tools=TOOLS)
    assert message.content == "No."
    assert message.reasoning == f"or {NO_ARGUMENTS}?"
    assert not message.tool_calls
    assert reason == "stop"


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_the_token_limit_cuts(output_router: Harness, stream: bool) -> None:
    router = output_router
    ids = router.ids(f"{TOOL}say\n<longcat_arg_key>text</longcat_arg_key><longcat_arg_value>one two three")
    router.fakes[0].script = answers_with([*ids, *router.ids(" four")], eos=EOS)
    create = router.client().chat.completions.create
    options: Any = {"model": MODEL, "messages": HI, "tools": TOOLS, "max_tokens": len(ids)}
    if stream:
        chunks = list(create(**options, stream=True))
        deltas = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
        arguments = "".join(call.function.arguments for call in deltas)
        reason = chunks[-1].choices[0].finish_reason
    else:
        choice = create(**options).choices[0]
        arguments, reason = choice.message.tool_calls[0].function.arguments, choice.finish_reason
    assert (arguments, reason) == ('{"text": "one two three', "length")


def test_text_that_reads_like_tags_is_content_where_tags_are_tokens(tmp_path: Path) -> None:
    with Harness(assets(tmp_path / "model", "tokens"), FakeAttention(answers_with([]))) as router:
        text = f"{THINK} {CALL} {END_TOOL} {END_THINK}"
        router.fakes[0].script = answers_with(spelled_ids(router, text), eos=EOS)
        message, reason = answer(router, stream=False, tools=TOOLS)
        assert (message.content, message.tool_calls, reason) == (text, None, "stop")


def test_stop_strings_within_tags(output_router: Harness) -> None:
    router = output_router
    router.fakes[0].script = answers_with(router.ids(f"a {THINK}b{END_THINK}c"), eos=EOS)
    message, _ = answer(router, stream=True, stop=["think>c"])
    assert (message.content, message.reasoning) == ("a ", "b</longcat_")
    message, _ = answer(router, stream=True, stop=["k>d"])
    assert (message.content, message.reasoning) == ("a c", "b")


def test_undecodable_bytes_come_as_they_are_made(bytes_router: Harness) -> None:
    router = bytes_router
    (wrong,) = (i for i, data in enumerate(router.assets.vocabulary.bytes_by_id) if data == b"\xff")
    router.fakes[0].script = answers_with([wrong] * 300, eos=EOS, pause=0.001)
    client = router.client()
    chat = client.chat.completions.create(model=MODEL, messages=HI, stream=True)
    completion = client.completions.create(model=MODEL, prompt="x", max_tokens=301, stream=True)
    for texts in (
        [chunk.choices[0].delta.content or "" for chunk in chat],
        [chunk.choices[0].text for chunk in completion],
    ):
        assert "".join(texts) == "\ufffd" * 300
        assert sum(map(bool, texts)) > 100, "not all at once"


@pytest.mark.parametrize("stream", [False, True])
def test_characters_of_several_byte_tokens(bytes_router: Harness, stream: bool) -> None:
    router = bytes_router
    text = "the 🐈 猫 END"
    ids = router.ids(text)
    assert sum(router.assets.vocabulary.bytes_by_id[i] in (b"\xf0", b"\x9f", b"\x90", b"\x88") for i in ids) == 4
    router.fakes[0].script = answers_with(ids, eos=EOS)
    message, _ = answer(router, stream=stream)
    assert message.content == text
    message, _ = answer(router, stream=stream, stop=["🐈 猫"])
    assert message.content == "the "
    scored = router.client().chat.completions.create(model=MODEL, messages=HI, logprobs=True).choices[0].logprobs
    assert scored is not None
    assert b"".join(bytes(entry.bytes or []) for entry in scored.content or []) == f" {text}</longcat_s>".encode()
