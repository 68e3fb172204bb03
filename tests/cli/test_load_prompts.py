"""Prompts of `caracal bench serve`: exact lengths with a tokenizer, words without, files as vLLM takes them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from services.cli.load.prompts import Prompt, make_prompts
from services.cli.load.settings import BadOption, Dataset


class Letters:
    """A tokenizer of three characters a token; what is cut in the middle of a word becomes other tokens."""

    async def encode(self, text: str) -> list[int]:
        parts = [word[at : at + 3] for word in text.split(" ") for at in range(0, len(word), 3)]
        return [int.from_bytes(part.encode(), "big") for part in parts]

    async def decode(self, ids: list[int]) -> str:
        return " ".join(token.to_bytes(4, "big").strip(b"\0").decode() for token in ids)


def prompts(dataset: Dataset, tokenizer: Letters | None = None) -> tuple[list[Prompt], list[str]]:
    notes: list[str] = []
    return asyncio.run(make_prompts(dataset, tokenizer, notes.append)), notes


def test_random_prompts_have_the_length_in_tokens_and_depend_on_the_seed_alone() -> None:
    dataset = Dataset(num_prompts=40, input_len=30, output_len=7, seed=3)
    found, notes = prompts(dataset, Letters())
    assert [len(asyncio.run(Letters().encode(one.text))) for one in found] == [30] * 40
    assert {one.output_len for one in found} == {7}
    assert len({one.text for one in found}) == 40, "no prefix is shared"
    assert not notes
    assert prompts(dataset, Letters())[0] == found
    assert prompts(Dataset(num_prompts=40, input_len=30, output_len=7, seed=4), Letters())[0] != found


def test_tokens_that_the_server_adds_are_part_of_the_length() -> None:
    found = asyncio.run(make_prompts(Dataset(num_prompts=2, input_len=30), Letters(), print, added=1))
    assert [len(asyncio.run(Letters().encode(one.text))) for one in found] == [29, 29]


def test_lengths_vary_within_the_range() -> None:
    found, _ = prompts(Dataset(num_prompts=300, input_len=40, output_len=10, range_ratio=0.5), Letters())
    lengths = [len(asyncio.run(Letters().encode(one.text))) for one in found]
    assert (min(lengths), max(lengths)) == (20, 60)
    assert (min(one.output_len for one in found), max(one.output_len for one in found)) == (5, 15)


def test_without_a_tokenizer_words_count_and_the_reader_is_notified() -> None:
    found, notes = prompts(Dataset(num_prompts=3, input_len=30))
    assert [len(one.text.split()) for one in found] == [30] * 3
    assert {one.output_len for one in found} == {128}
    assert notes == ["the server has no /tokenize: --random-input-len 30 counts words, not tokens"]


def test_custom_prompts_are_taken_in_order_and_repeated(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    messages = [{"role": "user", "content": "hi"}]
    lines: list[dict[str, Any]] = [{"prompt": "one"}, {"prompt": "two", "output_tokens": 9}, {"messages": messages}]
    file.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    found, notes = prompts(Dataset(name="custom", path=file, num_prompts=4))
    assert found == [Prompt("one", 256), Prompt("two", 9), Prompt("", 256, messages), Prompt("one", 256)]
    assert notes == ["mine.jsonl has 3 prompts: they are repeated up to 4"]
    assert {one.output_len for one in prompts(Dataset(name="custom", path=file, output_len=5, num_prompts=3))[0]} == {5}


def test_conversations_that_are_too_short_or_too_long_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "share.json"

    def turns(question: int, answer: int) -> dict[str, Any]:
        return {"conversations": [{"from": "human", "value": "a " * question}, {"from": "gpt", "value": "b " * answer}]}

    file.write_text(json.dumps([turns(10, 20), turns(2, 20), turns(10, 2), turns(1100, 20), turns(900, 1200), {}]))
    found, notes = prompts(Dataset(name="sharegpt", path=file, num_prompts=1))
    assert [(len(one.text.split()), one.output_len) for one in found] == [(10, 20)]
    assert notes == ["the server has no /tokenize: lengths of conversations are counted in words"]


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("custom", '{"prompt": 5}', "line 1: it has neither `prompt`"),
        ("custom", '{"prompt": "a"}\nnot json', "line 2:"),
        ("custom", "", "no prompt in it can be used"),
        ("custom", None, "No such file"),
        ("sharegpt", '{"a": 1}', "not a ShareGPT file"),
        ("sharegpt", "[]", "no prompt in it can be used"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, name: str, text: str | None, why: str) -> None:
    file = tmp_path / "data"
    if text is not None:
        file.write_text(text)
    with pytest.raises(BadOption) as caught:
        prompts(Dataset(name=name, path=file))
    assert str(caught.value).startswith(f"--dataset-path {file}")
    assert why in str(caught.value)
