"""A thread stands still when it uses no CPU time, however long its work takes: waits in pieces and compilers go on."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

import pytest

from services.process.thread_watch import ProgressWatch, ThreadWatch
from services.router.dispatch.waiting import result_of

pytestmark = pytest.mark.processes

LOOKS = 30


def looked_at(work: Callable[[threading.Event], object]) -> list[bool]:
    """What a watch of three looks says of a thread that does this work until the event is set."""
    over = threading.Event()
    thread = threading.Thread(target=work, args=(over,))
    thread.start()
    try:
        watch, said = ThreadWatch(0.3), list[bool]()
        for _ in range(LOOKS):
            time.sleep(0.05)
            said.append(watch.look(thread.native_id))
    finally:
        over.set()
        thread.join()
    return said


def computes(over: threading.Event) -> None:
    while not over.is_set():
        sum(range(1000))


def waits_in_pieces(over: threading.Event) -> None:
    """As the engine waits for experts over gRPC."""
    reply: Future[bool] = Future()

    def answer() -> None:
        reply.set_result(over.wait())

    threading.Thread(target=answer).start()
    result_of(reply, 60)


def waits_for_a_compiler(over: threading.Event) -> None:
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as child:

        def end() -> None:
            over.wait()
            assert child.stdin is not None
            child.stdin.close()

        threading.Thread(target=end).start()
        child.wait()


def test_a_thread_that_waits_for_what_does_not_come_stands_still() -> None:
    said = looked_at(threading.Event.wait)
    assert said[LOOKS // 2 :] == [True] * (LOOKS - LOOKS // 2)
    assert not said[0]


@pytest.mark.parametrize("work", [computes, waits_for_a_compiler])
def test_work_that_takes_long_goes_on(work: Callable[[threading.Event], object]) -> None:
    assert not any(looked_at(work))


def test_a_wait_in_pieces_goes_on() -> None:
    over = threading.Event()
    thread = threading.Thread(target=waits_in_pieces, args=(over,))
    thread.start()
    watch = ThreadWatch()
    said = []
    for _ in range(12):
        time.sleep(0.1)
        said.append(watch.look(thread.native_id))
    over.set()
    thread.join()
    assert not any(said)


def test_a_thread_may_wait_for_a_process_beside_it() -> None:
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        alone, beside, said = ThreadWatch(0.3), ThreadWatch(0.3, beside=[other.pid]), list[tuple[bool, bool]]()
        for _ in range(LOOKS):
            time.sleep(0.05)
            said.append((alone.look(thread.native_id), beside.look(thread.native_id)))
        other.kill()
    over.set()
    thread.join()
    assert said[-1] == (True, False)


@pytest.mark.parametrize(
    ("work", "advances", "found"),
    [(computes, False, True), (computes, True, False), (threading.Event.wait, False, False)],
)
def test_a_thread_that_computes_without_progress_gets_nowhere(
    work: Callable[[threading.Event], object], advances: bool, found: bool
) -> None:
    over, watch, said = threading.Event(), ProgressWatch(), list[bool]()
    thread = threading.Thread(target=work, args=(over,))
    thread.start()
    try:
        end = time.monotonic() + 20
        while not any(said) and len(said) < LOOKS if not found else not any(said) and time.monotonic() < end:
            time.sleep(0.05)
            said.append(watch.look(thread.native_id, len(said) if advances else 0, 0.3))
    finally:
        over.set()
        thread.join()
    assert said[-1] == found


def test_nobody_gets_nowhere_without_work() -> None:
    watch = ProgressWatch()
    assert not any(watch.look(None, 0, 0.0) for _ in range(LOOKS))


def test_nobody_stands_still_without_work() -> None:
    watch = ThreadWatch(0.1)
    assert not any(watch.look(None) for _ in range(LOOKS))


def test_a_wait_ends_with_the_result_its_error_or_the_time() -> None:
    done: Future[int] = Future()
    done.set_result(3)
    assert result_of(done, 0) == 3
    failed: Future[int] = Future()
    failed.set_exception(TimeoutError("of its own"))
    with pytest.raises(TimeoutError, match="of its own"):
        result_of(failed, 5)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        result_of(Future(), 0.5)
    assert time.monotonic() - began >= 0.5
