"""Requests while one numerics class replaces another: new ones go to the new one; those whose class ends hear so."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from support.fake_attention import FakeAttention, answers_with
from support.gateway_assets import EOS
from support.gateway_harness import MODEL, Harness

from services.router.requests.worker_choice import AttentionWorkerView, choose_worker

TEXT = "the cat sat on the mat, hello world; the cat sat on the mat"
HI: list[Any] = [{"role": "user", "content": "hi"}]


@pytest.fixture
def harness(assets_path: Path) -> Iterator[Harness]:
    fakes = [
        FakeAttention(answers_with([]), worker_id=f"attention-{number}", numerics_class=name)
        for number, name in enumerate(("old", "new"))
    ]
    with Harness(assets_path, *fakes, progress_s=20, lost_s=0.3) as harness:
        for fake in fakes:
            fake.script = answers_with(harness.ids(TEXT), eos=EOS, pause=0.05)
        show(harness)
        yield harness


def show(harness: Harness, *, ended: bool = False, old: bool = True) -> None:
    """What the router sees: the old class, which may have ended, and the new one."""
    first, second = harness.fakes
    seen = [first.record(generation=0, ended=ended)] if old else []
    harness.directory.workers = [*seen, second.record(generation=1)]
    harness.do(harness.serving.attention_workers.refresh())


def chat(harness: Harness, into: list[Any]) -> None:
    try:
        chunks = harness.client().chat.completions.create(model=MODEL, messages=HI, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        into.append(text)
    except openai.APIError as error:
        into.append(error)


def test_new_requests_go_to_the_newest_class(harness: Harness) -> None:
    found: list[Any] = []
    for _ in range(3):
        chat(harness, found)
    assert found == [TEXT] * 3
    assert [len(fake.requests) for fake in harness.fakes] == [0, 3]


def test_an_answer_whose_class_ends_hears_so_at_once(harness: Harness) -> None:
    first, second = harness.fakes
    harness.directory.workers = [first.record(), second.record(epoch=0)]
    harness.do(harness.serving.attention_workers.refresh())
    first.script = answers_with(harness.ids(TEXT), pause=1.0)
    found: list[Any] = []
    client = threading.Thread(target=chat, args=(harness, found))
    client.start()
    while not first.requests:
        time.sleep(0.01)
    time.sleep(0.3)
    show(harness, ended=True)
    client.join(5)
    assert not client.is_alive()
    assert isinstance(found[0], openai.APIError)
    assert found[0].code == "replaced"
    assert not second.requests


def test_a_request_without_a_token_yet_begins_in_the_new_class(harness: Harness) -> None:
    first, second = harness.fakes
    harness.directory.workers = [first.record(), second.record(epoch=0)]
    harness.do(harness.serving.attention_workers.refresh())

    async def silent(request: Any, context: Any) -> Any:
        await asyncio.sleep(60)
        yield None

    first.script = silent
    found: list[Any] = []
    client = threading.Thread(target=chat, args=(harness, found))
    client.start()
    while not first.requests:
        time.sleep(0.01)
    show(harness, ended=True)
    client.join(10)
    assert found == [TEXT]
    assert len(second.requests) == 1


def test_an_answer_whose_last_worker_is_gone_hears_so_too(harness: Harness) -> None:
    first, second = harness.fakes
    harness.directory.workers = [first.record(), second.record(epoch=0)]
    harness.do(harness.serving.attention_workers.refresh())
    found: list[Any] = []
    client = threading.Thread(target=chat, args=(harness, found))
    client.start()
    while not first.requests:
        time.sleep(0.01)
    time.sleep(0.2)
    show(harness, old=False)
    harness.do(first.stop())
    client.join(10)
    assert not client.is_alive()
    assert getattr(found[0], "code", found[0]) == "replaced"


def view(name: str, **fields: Any) -> AttentionWorkerView:
    return AttentionWorkerView(**{"worker_id": name, "address": f"{name}:1", "epoch": 1, **fields})


def test_a_full_new_worker_leaves_requests_to_the_old_ones() -> None:
    old, new = view("a", numerics_class="old"), view("b", numerics_class="new", generation=1, load=4)
    assert choose_worker([old, new], {}) == new
    assert choose_worker([old, new], {}, places={"b": 4}) == old
    assert choose_worker([old, new], {}, avoid={"b"}) == old
    assert choose_worker([old, new], {}, numerics_class="old") == old
    assert choose_worker([view("a", ended=True)], {}) is None
