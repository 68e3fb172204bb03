"""Native sessions: how they are opened and refused, what ends them, and that gRPC takes over where there is none."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import torch
from caracal_kernels import is_compiled
from caracal_proto import expert_pb2, expert_pb2_grpc
from support.expert_workers import (
    MAX_SESSIONS,
    WaitingFanout,
    Worker,
    connecting,
    gates,
    load_everything,
    open_dispatcher,
    place,
    random_batch,
    run,
    slowly,
    workers,
)
from support.native_frames import HELLO, WELCOME, Frame, FramesEnded, read_frame
from support.p2p_worker_pool import P2PWorkerPool
from support.reference_dispatcher import ReferenceDispatcher

from services.checkpoint.reader import Checkpoint
from services.router.dispatch.errors import ExpertsUnavailable
from services.router.dispatch.native_fanout import NativeOptions
from services.router.dispatch.native_link import NativeLink, NativeStats
from services.router.dispatch.native_open import NotOpened, open_session

DTYPE = torch.bfloat16


@pytest.fixture
def one(checkpoint: Checkpoint) -> Iterator[Worker]:
    with workers(checkpoint, DTYPE, 1) as (running,):
        load_everything(running.experts)
        running.service.direct = True
        yield running


def asked_to_open(worker: Worker) -> expert_pb2.OpenReply:
    with grpc.insecure_channel(worker.endpoint.address) as channel:
        return expert_pb2_grpc.ExpertStub(channel).Open(expert_pb2.OpenRequest(), timeout=5)


def greeted(place_: expert_pb2.OpenReply, token: bytes) -> Frame | None:
    """The answer to a greeting over TCP; None when the worker closes without one."""
    with socket.create_connection((place_.host, place_.port), 5) as connected:
        connected.sendall(Frame(kind=HELLO, session=place_.session, body=token).sealed().encoded())
        try:
            return read_frame(connected)
        except FramesEnded:
            return None


def same_as_reference(checkpoint: Checkpoint, worker: Worker, stats: NativeStats, steps: int = 4) -> int:
    """Runs layers over native sessions and compares bits; returns the messages sent."""
    gate, plain = gates(checkpoint), ReferenceDispatcher(checkpoint, DTYPE)
    connect = connecting("native", checkpoint, DTYPE, native_stats=stats)
    with open_dispatcher(checkpoint, connect) as dispatcher:
        dispatcher.apply(place(1, checkpoint, [worker.endpoint], lambda layer, expert: [0]))
        for number in range(steps):
            batch = random_batch(number, checkpoint.config.hidden_size, DTYPE, tokens=12)
            assert torch.equal(run(dispatcher, 0, gate[0], batch), run(plain, 0, gate[0], batch))
        return dispatcher.stats.total().messages_sent


def test_callers_on_one_machine_get_the_unix_socket(checkpoint: Checkpoint, one: Worker) -> None:
    opened = open_session(one.endpoint)
    assert opened.over_unix
    opened.socket.close()
    stats = NativeStats()
    assert same_as_reference(checkpoint, one, stats) == stats.calls == one.service.native_calls > 0
    assert stats.over_grpc == 0


def test_callers_that_do_not_find_the_unix_socket_get_tcp(checkpoint: Checkpoint, one: Worker) -> None:
    one.service.direct = False  # the proxy names a socket that is not there, as another machine sees it
    opened = open_session(one.endpoint)
    assert not opened.over_unix
    opened.socket.close()
    stats = NativeStats()
    assert same_as_reference(checkpoint, one, stats) == stats.calls == one.service.native_calls > 0


def test_a_token_opens_one_session_once(one: Worker) -> None:
    place_ = asked_to_open(one)
    welcome = greeted(place_, place_.token)
    assert welcome is not None
    assert (welcome.kind, welcome.session) == (WELCOME, place_.session)
    assert greeted(place_, place_.token) is None, "the token is used up"
    assert greeted(place_, bytes(32)) is None, "a token that was never given"
    assert greeted(place_, b"short") is None


def test_a_connection_without_a_token_is_closed_without_an_answer(one: Worker) -> None:
    place_ = asked_to_open(one)
    with socket.create_connection((place_.host, place_.port), 8) as silent, pytest.raises(FramesEnded):
        read_frame(silent)
    for first in (b"GET / HTTP/1.1\r\nHost: here\r\n\r\n" * 4, b"\0" * 200):
        with socket.create_connection((place_.host, place_.port), 8) as stranger, contextlib.suppress(OSError):
            stranger.sendall(first)
            assert stranger.recv(1) == b""


def test_many_unproven_connections_do_not_keep_callers_out(checkpoint: Checkpoint, one: Worker) -> None:
    place_ = asked_to_open(one)
    unproven = [socket.create_connection((place_.host, place_.port), 5) for _ in range(100)]
    stats = NativeStats()
    assert same_as_reference(checkpoint, one, stats) == stats.calls
    for each in unproven:
        each.close()


def test_no_more_sessions_than_the_worker_takes(one: Worker) -> None:
    kept = [open_session(one.endpoint).socket for _ in range(MAX_SESSIONS)]
    with pytest.raises(NotOpened, match=f"RESOURCE_EXHAUSTED: {MAX_SESSIONS} native sessions are open"):
        open_session(one.endpoint)
    assert one.service.sessions == MAX_SESSIONS
    kept.pop().close()
    until(lambda: one.service.sessions < MAX_SESSIONS)
    kept.append(open_session(one.endpoint).socket)
    for each in kept:
        each.close()


def test_a_worker_without_native_sessions_is_reached_over_grpc(checkpoint: Checkpoint, one: Worker) -> None:
    one.service.native = None
    stats = NativeStats()
    assert same_as_reference(checkpoint, one, stats) == stats.over_grpc > 0
    assert stats.calls == stats.opened == 0
    assert stats.failed >= 1


def test_calls_go_natively_again_after_the_worker_has_ended_the_session(checkpoint: Checkpoint, one: Worker) -> None:
    gate, plain, stats = gates(checkpoint), ReferenceDispatcher(checkpoint, DTYPE), NativeStats()
    connect = connecting("native", checkpoint, DTYPE, native_stats=stats)
    with open_dispatcher(checkpoint, connect) as dispatcher:
        dispatcher.apply(place(1, checkpoint, [one.endpoint], lambda layer, expert: [0]))
        batch = random_batch(0, checkpoint.config.hidden_size, DTYPE, tokens=12)
        right = run(plain, 0, gate[0], batch)
        assert torch.equal(run(dispatcher, 0, gate[0], batch), right)
        before = one.service.native
        assert before is not None
        before.stop()
        one.service.native = one.service.new_native(one.state, one.batcher)
        until(lambda: torch.equal(run(dispatcher, 0, gate[0], batch), right) and stats.opened == 2)
        calls = stats.calls
        assert torch.equal(run(dispatcher, 0, gate[0], batch), right)
        assert stats.calls == calls + 1
        assert stats.broken == 1


def test_a_larger_call_than_the_worker_takes_goes_over_grpc(checkpoint: Checkpoint, one: Worker) -> None:
    assert one.service.native is not None
    one.service.native.max_rows = 8
    stats = NativeStats()
    assert same_as_reference(checkpoint, one, stats) == stats.over_grpc
    assert stats.opened == 1


def test_a_slow_launch_is_not_taken_for_silence(checkpoint: Checkpoint) -> None:
    stats = NativeStats()
    with workers(checkpoint, DTYPE, 1, around=slowly(0.9)) as (slow,):
        load_everything(slow.experts)
        slow.service.direct = True
        assert same_as_reference(checkpoint, slow, stats, steps=2) == stats.calls == 2
    assert stats.broken == 0


def test_rows_of_many_callers_are_merged_and_one_s_bad_call_fails_alone(checkpoint: Checkpoint) -> None:
    """Launches are slow, so that calls of several callers wait together; one asks for an expert that is not there."""
    gate, plain = gates(checkpoint), ReferenceDispatcher(checkpoint, DTYPE)
    wrong: list[str] = []
    with workers(checkpoint, DTYPE, 1, around=slowly(0.05)) as (slow,):
        load_everything(slow.experts)
        slow.service.direct = True
        batches = [random_batch(number, checkpoint.config.hidden_size, DTYPE, tokens=6) for number in range(4)]
        right = [run(plain, 0, gate[0], batch) for batch in batches]

        def caller(number: int) -> None:
            connect = connecting("native", checkpoint, DTYPE)
            with open_dispatcher(checkpoint, connect) as dispatcher:
                dispatcher.apply(place(1, checkpoint, [slow.endpoint], lambda layer, expert: [0]))
                for _ in range(6):
                    if not torch.equal(run(dispatcher, 0, gate[0], batches[number]), right[number]):
                        wrong.append(f"caller {number}")

        def missing() -> None:
            connect = connecting("native", checkpoint, DTYPE)
            with open_dispatcher(checkpoint, connect, expert_wait_s=0.5) as dispatcher:
                dispatcher.apply(place(1, checkpoint, [slow.endpoint], lambda layer, expert: [0]))
                try:
                    run(dispatcher, 1, gate[1], batches[0])
                except ExpertsUnavailable as error:
                    wrong.extend([] if "are not loaded here" in str(error) else [str(error)])
                else:
                    wrong.append("experts that are not loaded have answered")

        for expert in range(checkpoint.config.n_routed_experts):
            slow.experts.drop(1, expert)
        threads = [threading.Thread(target=caller, args=(number,)) for number in range(4)]
        threads.append(threading.Thread(target=missing))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        counters = slow.batcher.counters
        assert not wrong
        assert counters.calls == 24
        assert counters.launches < 20, "calls that waited together were merged"


def test_a_step_larger_than_the_socket_s_buffer_gets_through(checkpoint: Checkpoint, one: Worker) -> None:
    """Both directions exceed what a socket takes at once, and the caller computes before it waits."""
    gate, plain = gates(checkpoint), ReferenceDispatcher(checkpoint, DTYPE)
    connect = WaitingFanout(NativeOptions(DTYPE, DTYPE, NativeStats()))
    batch = random_batch(1, checkpoint.config.hidden_size, DTYPE, tokens=8000)
    with open_dispatcher(checkpoint, connect) as dispatcher:
        dispatcher.apply(place(1, checkpoint, [one.endpoint], lambda layer, expert: [0]))
        pending = dispatcher.start(0, batch.h_TD, gate[0], batch)
        until(lambda: one.batcher.counters.calls == 1)  # the rest is sent while nobody waits
        assert torch.equal(pending.finish(batch.residual_TD), run(plain, 0, gate[0], batch))


@pytest.mark.processes
def test_a_silent_worker_is_noticed_by_its_missing_signs_of_life(checkpoint: Checkpoint, path: Path) -> None:
    pool = P2PWorkerPool(path, DTYPE)
    try:
        children = [pool.worker(direct=True) for _ in range(2)]
        gate, plain, stats = gates(checkpoint), ReferenceDispatcher(checkpoint, DTYPE), NativeStats()
        connect = connecting("native", checkpoint, DTYPE, native_stats=stats)
        with open_dispatcher(checkpoint, connect, call_timeout_s=30) as dispatcher:
            dispatcher.apply(place(1, checkpoint, [c.endpoint for c in children], lambda layer, expert: [0, 1]))
            batch = random_batch(0, checkpoint.config.hidden_size, DTYPE, tokens=12)
            right = run(plain, 0, gate[0], batch)
            assert torch.equal(run(dispatcher, 0, gate[0], batch), right)
            children[0].signal(signal.SIGSTOP)
            began_s = time.monotonic()
            assert torch.equal(run(dispatcher, 0, gate[0], batch), right)
            assert 0.3 < time.monotonic() - began_s < 5, "long before the call's own deadline of 30 s"
            assert dispatcher.stats.layers[0].retries == 1
            children[1].kill()
            children[0].signal(signal.SIGCONT)
            assert torch.equal(run(dispatcher, 0, gate[0], batch), right)
    finally:
        pool.close()


@pytest.mark.skipif(not is_compiled(), reason="there are no compiled kernels")
def test_launches_without_python_have_the_same_bits_and_are_counted(checkpoint: Checkpoint, one: Worker) -> None:
    """Experts of layer 1 are partly unloaded: such launches are answered by Python, in the words of other links."""
    gate, plain, stats = gates(checkpoint), ReferenceDispatcher(checkpoint, DTYPE), NativeStats()
    native = one.service.native = one.service.new_native(one.state, one.batcher, direct=True)
    connect = connecting("native", checkpoint, DTYPE, native_stats=stats)
    with open_dispatcher(checkpoint, connect, expert_wait_s=0.3) as dispatcher:
        dispatcher.apply(place(1, checkpoint, [one.endpoint], lambda layer, expert: [0]))
        for number in range(20):
            batch, layer = random_batch(number, checkpoint.config.hidden_size, DTYPE), number % 2
            assert torch.equal(run(dispatcher, layer, gate[layer], batch), run(plain, layer, gate[layer], batch))
        assert one.batcher.counters.launches == 0, "no launch went through Python"
        native.take_counts()
        counters, sent = one.batcher.counters, dispatcher.stats.total()
        assert (counters.launches, counters.calls) == (20, 20)
        assert (counters.rows, counters.assignments) == (sent.rows_sent, sent.assignments_sent)
        assert 0 < counters.busy_s < 5
        assert one.batcher.queue_times.buckets()[-1][1] == 20
        assert native.launch_s == 0
        one.experts.drop(1, 3)
        batch = random_batch(3, checkpoint.config.hidden_size, DTYPE, tokens=40)
        with pytest.raises(ExpertsUnavailable, match="experts 3 of layer 1 are not loaded here"):
            run(dispatcher, 1, gate[1], batch)
        one.experts.load(1, 3)
        assert torch.equal(run(dispatcher, 1, gate[1], batch), run(plain, 1, gate[1], batch))
        native.take_counts()
        assert one.batcher.counters.launches == 21


def test_a_closed_link_opens_no_session(checkpoint: Checkpoint, one: Worker) -> None:
    fanout = WaitingFanout(NativeOptions(DTYPE, DTYPE, NativeStats()))
    link = fanout(one.endpoint)
    assert isinstance(link, NativeLink)
    assert link.serial >= 0
    link.close()
    until(lambda: one.service.sessions == 0)
    assert link.start_opening() is None


def until(condition: object, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)
