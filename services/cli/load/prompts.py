"""Prompts of a run: from a file, or synthetic ones of a given length."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from services.cli.load.settings import BadOption, Dataset
from services.cli.load.words import WORDS

RANDOM_OUTPUT, CUSTOM_OUTPUT = 128, 256
TOGETHER = 32  # prompts whose tokens are counted at one time
TRIES = 10  # to find a text of exactly so many tokens
LEAST, LONGEST_PROMPT, LONGEST = 4, 1024, 2048  # tokens of conversations that are taken from ShareGPT


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt, and how many tokens are asked for. `messages`: of a chat, in place of the text."""

    text: str
    output_len: int
    messages: list[dict[str, Any]] | None = None


class Tokenizer(Protocol):
    """The server's tokenizer, over HTTP."""

    async def encode(self, text: str) -> list[int]: ...

    async def decode(self, ids: list[int]) -> str: ...


Note = Callable[[str], None]
Count = Callable[[str], Awaitable[int]]


async def make_prompts(dataset: Dataset, tokenizer: Tokenizer | None, note: Note, added: int = 0) -> list[Prompt]:
    """Returns `num_prompts` prompts; `note` gets what a reader of the report has to know. Raises BadOption.

    `added`: tokens that the server adds around a prompt, which count as its own.
    """
    chooser = random.Random(dataset.seed)
    if dataset.name == "random":
        if tokenizer is None:
            note(f"the server has no /tokenize: --random-input-len {dataset.input_len} counts words, not tokens")
        return await _randoms(dataset, tokenizer, added)
    assert dataset.path
    if dataset.name == "custom":
        found = list(_custom(dataset.path, dataset.output_len))
    else:
        if tokenizer is None:
            note("the server has no /tokenize: lengths of conversations are counted in words")
        conversations = list(_sharegpt(dataset.path, dataset.output_len))
        chooser.shuffle(conversations)
        found = await _chosen(conversations, dataset.num_prompts, _counter(tokenizer))
    if not found:
        raise BadOption(f"--dataset-path {dataset.path}: no prompt in it can be used")
    if len(found) < dataset.num_prompts:
        note(f"{dataset.path.name} has {len(found)} prompts: they are repeated up to {dataset.num_prompts}")
    return [found[number % len(found)] for number in range(dataset.num_prompts)]


async def _randoms(dataset: Dataset, tokenizer: Tokenizer | None, added: int) -> list[Prompt]:
    """Each from a generator of its own, so that they do not depend on the order in which the server answers."""
    places = asyncio.Semaphore(TOGETHER)

    async def one(number: int) -> Prompt:
        async with places:
            return await _random(dataset, tokenizer, random.Random(f"{dataset.seed}/{number}"), added)

    return await asyncio.gather(*map(one, range(dataset.num_prompts)))


async def _random(dataset: Dataset, tokenizer: Tokenizer | None, chooser: random.Random, added: int) -> Prompt:
    length = max(1, _drawn(dataset.input_len, dataset.range_ratio, chooser) - added)
    output = _drawn(dataset.output_len or RANDOM_OUTPUT, dataset.range_ratio, chooser)
    words = " ".join(chooser.choices(WORDS, k=length))
    return Prompt(words if tokenizer is None else await _cut(words, length, tokenizer, chooser), output)


async def _cut(text: str, length: int, tokenizer: Tokenizer, chooser: random.Random) -> str:
    """A text of `length` tokens, if one is found: cutting between tokens may make others of the text."""
    for _ in range(TRIES):
        ids = await tokenizer.encode(text)
        if len(ids) == length:
            break
        if len(ids) < length:
            text += "".join(f" {word}" for word in chooser.choices(WORDS, k=length - len(ids)))
        else:
            text = await tokenizer.decode(ids[:length])
    return text


def _drawn(length: int, ratio: float, chooser: random.Random) -> int:
    return chooser.randint(max(1, int(length * (1 - ratio))), max(1, int(length * (1 + ratio))))


def _counter(tokenizer: Tokenizer | None) -> Count:
    async def count(text: str) -> int:
        return len(await tokenizer.encode(text)) if tokenizer else len(text.split())

    return count


@dataclass(frozen=True, slots=True)
class Conversation:
    """The first question and answer of a conversation; `output_len` overrides the length of the answer."""

    question: str
    answer: str
    output_len: int | None


async def _chosen(conversations: Sequence[Conversation], most: int, count: Count) -> list[Prompt]:
    """The first `most` of them that are neither too short nor too long."""
    found: list[Prompt] = []
    for entry in conversations:
        if len(found) < most and (prompt := await _conversation(entry, count)):
            found.append(prompt)
    return found


async def _conversation(entry: Conversation, count: Count) -> Prompt | None:
    """A prompt, unless the conversation is too short or too long, as in vLLM."""
    asked = await count(entry.question)
    answered = entry.output_len or await count(entry.answer)
    short = asked < LEAST or (entry.output_len is None and answered < LEAST)
    if short or asked > LONGEST_PROMPT or asked + answered > LONGEST:
        return None
    return Prompt(entry.question, answered)


def _sharegpt(path: Path, output_len: int | None) -> Iterator[Conversation]:
    """Conversations of a ShareGPT file with at least two turns. Raises BadOption."""
    try:
        raw = json.loads(_text(path))
        turns = [entry.get("conversations") or entry.get("conversation") or [] for entry in raw]
        taken = [(str(one[0]["value"]), str(one[1]["value"])) for one in turns if len(one) >= 2]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadOption(f"--dataset-path {path}: not a ShareGPT file ({type(error).__name__}: {error})") from None
    return (Conversation(question, answer, output_len) for question, answer in taken)


def _custom(path: Path, output_len: int | None) -> Iterator[Prompt]:
    """Prompts of a JSONL file, one object per line with `prompt` or `messages`. Raises BadOption."""
    for number, line in enumerate(_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            text, messages = entry.get("prompt", ""), entry.get("messages")
            if not isinstance(text, str) or not (text or isinstance(messages, list)):
                raise ValueError("it has neither `prompt`, a text, nor `messages`, a list")
            limit = output_len or int(entry.get("output_tokens") or CUSTOM_OUTPUT)
        except (ValueError, TypeError, AttributeError) as error:
            raise BadOption(f"--dataset-path {path}, line {number}: {error}") from None
        yield Prompt(text, limit, messages)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadOption(f"--dataset-path {path}: {error}") from None
