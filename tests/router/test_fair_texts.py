"""Work on texts is done for callers in turn: many long chats of one hold up no short one of another."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path

import pytest
from support.fake_attention import FakeAttention, answers_with
from support.gateway_assets import EOS
from support.gateway_harness import MODEL, Harness
from support.raw_http import Answer, ask_from

from services.process.fair_threads import FairThreads

HEAVY, LIGHT, MANY = "127.0.0.2", "127.0.0.1", 60


def chat(text: str) -> bytes:
    return json.dumps({"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": 2}).encode()


@pytest.fixture
def held() -> threading.Event:
    return threading.Event()


def test_callers_are_served_in_turn(held: threading.Event) -> None:
    threads, order = FairThreads(1, "test"), list[str]()
    threads.submit("first", held.wait)
    asked = [("heavy", number) for number in range(5)] + [("light", 0), ("light", 1)]
    queued = [threads.submit(caller, partial(order.append, f"{caller}-{number}")) for caller, number in asked]
    held.set()
    wait(queued, 10)
    assert order == ["heavy-0", "light-0", "heavy-1", "light-1", "heavy-2", "heavy-3", "heavy-4"]


def test_what_is_cancelled_is_not_done_and_takes_nobody_s_turn(held: threading.Event) -> None:
    threads, order = FairThreads(1, "test"), list[str]()
    threads.submit("first", held.wait)
    gone = [threads.submit("heavy", partial(order.append, "gone")) for _ in range(3)]
    kept = threads.submit("heavy", partial(order.append, "kept"))
    assert all(one.cancel() for one in gone)
    held.set()
    kept.result(10)
    assert order == ["kept"]
    with pytest.raises(ZeroDivisionError):
        threads.submit("heavy", lambda: 1 // 0).result(10)


def test_what_waits_at_the_end_is_cancelled(held: threading.Event) -> None:
    threads = FairThreads(1, "test")
    running = threads.submit("first", held.wait)
    while not running.running():
        time.sleep(0.001)
    waits = threads.submit("heavy", lambda: None)
    threads.shutdown()
    with pytest.raises(CancelledError):
        waits.result(10)
    with pytest.raises(RuntimeError):
        threads.submit("heavy", lambda: None)
    held.set()
    assert running.result(10)


@pytest.mark.processes
def test_a_short_chat_waits_for_one_of_another_s_long_ones(assets_path: Path) -> None:
    with (
        Harness(assets_path, FakeAttention(answers_with([70], eos=EOS), places=64)) as harness,
        ThreadPoolExecutor(MANY) as pool,
    ):
        ask = partial(ask_from, harness.servers.http_port)
        assert ask(LIGHT, chat("hi " * 100)).status == 200, "the process is there"
        long = [pool.submit(ask, HEAVY, chat("hello world " * 20_000)) for _ in range(MANY)]
        while not any(one.done() for one in long):
            time.sleep(0.001)
        before = sum(one.done() for one in long)
        assert ask(LIGHT, chat("hi " * 100)).status == 200
        meanwhile = sum(one.done() for one in long) - before
        assert meanwhile < (MANY - before) * 3 // 4, f"{before}, then {meanwhile} of {MANY}"
        answers: list[Answer] = [one.result(60) for one in long]
    assert {answer.status for answer in answers} <= {200, 400}, "400: longer than the model's context"
