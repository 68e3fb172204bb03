"""A pair: one caller and one expert worker, joined by two-rank groups of torch.distributed of their own.

Gloo for CPU tensors, NCCL for CUDA ones, the same calls. There is no world: a group is built on the pair's own store
and nothing else knows of it, so pairs come, go and break one by one.

Two groups, one per direction, and a strict order in each. NCCL has no tags: on one communicator, a caller that sends
call 2 before it receives answer 1, to a worker that answers 1 before it receives call 2, waits for ever. With a group
per direction both sides post sends and receives in the one order in which the stream announces them. Gloo could do
with one; it gets two so that both run the same way.

Why launch order between groups does not matter, though services launch as they please: a receive is launched after the
announcement, and that after the matching send; so a receive waits only for bytes, never for a launch. A send waits for
its receive to be launched, which the peer's launcher thread does as soon as it hears, since it only launches. There is
no circle as long as waiting sends leave room for receives to run: at most one kernel per group runs at a time, MAX_CTAS
blocks each, so 2 * MAX_CTAS * pairs must stay below the device's multiprocessors. NCCL_LAUNCH_ORDER_IMPLICIT stays 0:
with it a pair's receive would stand behind another pair's send.

A group that has failed is aborted, never destroyed: NCCL's destroy waits for the dead peer. Gloo has no abort: a
blocked wait ends with the connection or with its timeout, and nothing else ends it (torch 2.13: abort() and shutdown()
do nothing, a timeout closes the connection). Hence every wait here is bounded by `transfer_timeout_s`.

Gloo ends the process when a message is longer than the buffer that waits for it, or when nothing waits for it. So gloo
receives into the whole buffer: a peer that sends another length than it announced breaks only the pair, by the
checksum. One that sends more than the room it was told of, or writes to gloo's socket by itself, can still end the
process: who may reach the link's ports must be a member of the cluster.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.distributed import Work
from torch.distributed.distributed_c10d import PrefixStore, Store

from services.transport.launch_thread import launch
from services.transport.p2p_backends import HANDSHAKE_S, MAX_CTAS, gloo, nccl
from services.transport.rendezvous_store import GROUPS

__all__ = [
    "CALLER",
    "HANDSHAKE_S",
    "MAX_CTAS",
    "SILENCE_S",
    "WORKER",
    "P2PBroken",
    "P2PGroup",
    "Sent",
    "transfer_timeout_s",
]

CALLER, WORKER = 0, 1
SILENCE_S = 0.8  # a payload that was announced is on its way: so long without it and the peer counts as gone
SLOWEST = 50e6  # bytes per second
POLL_S = 20e-6


class P2PBroken(ConnectionError):
    """The peer is gone, silent, or out of step. The pair is of no further use."""


def transfer_timeout_s(nbytes: int) -> float:
    """How long an announced payload may take."""
    return SILENCE_S + nbytes / SLOWEST


class Sent:
    """A send under way. Its tensor must not change before `wait` returns, or before the peer has answered."""

    def __init__(self, work: Work, payload_N: Tensor) -> None:
        self._work, self._payload_N = work, payload_N

    def wait(self, limit_s: float = 0.0) -> None:
        """Until the peer has taken the payload. Raises P2PBroken."""
        _settle(self._work, self._payload_N, limit_s)


class P2PGroup:
    """One side of a pair. One thread sends, one thread receives; `abort` belongs to any.

    `receive` gives views of one buffer of `max_bytes`, made for the first payload, so that a pair nobody uses holds
    nothing: they hold until the next `receive`.
    """

    def __init__(self, rank: int, groups: list[Any], max_bytes: int, device: torch.device) -> None:
        self.max_bytes = max_bytes
        self.device = device
        self._out, self._in, self._peer = groups[rank], groups[1 - rank], 1 - rank
        self._buffer_N = torch.empty(1, dtype=torch.uint8, device=device)  # for the handshake
        # Receives must not stand behind what the engine has queued: that is the work that hides them.
        cuda = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if cuda else None  # type: ignore[no-untyped-call]  # torch leaves it bare
        self._sends = self._receives = 0
        self._broken = ""

    @classmethod
    def meet(cls, store: Store, rank: int, max_bytes: int, device: torch.device, host: str) -> P2PGroup:
        """Both sides call this together, each with its rank. Ends when a byte has gone each way. Raises P2PBroken."""
        build = nccl if device.type == "cuda" else gloo
        groups: list[Any] = []
        try:
            for name in GROUPS:
                groups.append(build(PrefixStore(name, store), rank, device, host))
            pair = cls(rank, groups, max_bytes, device)
            # In one order on both sides, or each would wait for the other's group to come up.
            for sender in (CALLER, WORKER):
                if rank == sender:
                    pair.send(torch.ones(1, dtype=torch.uint8, device=device)).wait(HANDSHAKE_S)
                else:
                    pair.receive(1, HANDSHAKE_S)
        except Exception as error:  # noqa: BLE001 - an edge: what a peer says goes through C++, which raises anything
            _abort(groups, device)
            raise P2PBroken(_first_line(error)) from None
        return pair

    def send(self, payload_N: Tensor) -> Sent:
        """Posts the next payload, uint8 [N]; then it may be announced. Raises P2PBroken."""
        self._sends += 1
        group, tag = self._out, self._sends % 2**30
        return Sent(self._launch(lambda: group.send([payload_N], self._peer, tag)), payload_N)

    def receive(self, nbytes: int, limit_s: float = 0.0) -> Tensor:
        """uint8 [N]: the next payload, which must have been announced. Raises P2PBroken."""
        if not 0 < nbytes <= self.max_bytes:
            self._break(f"{nbytes} bytes were announced, there is room for {self.max_bytes}")
        self._receives += 1
        if self._receives == 2:  # after the handshake's byte
            self._make_room()
        group, tag, got_N = self._in, self._receives % 2**30, self._buffer_N[:nbytes]
        # NCCL wants both sides to name one length; gloo must have room for whatever comes.
        into_N = self._buffer_N if self.device.type == "cpu" else got_N

        def post() -> Work:
            with self.beside():
                return group.recv([into_N], self._peer, tag)  # type: ignore[no-any-return]  # see gloo

        work = self._launch(post)
        try:
            _settle(work, got_N, limit_s)
        except P2PBroken as error:
            self._break(str(error))
        return got_N

    def beside(self) -> AbstractContextManager[object]:
        """On a GPU, the stream on which payloads arrive; elsewhere nothing."""
        return torch.cuda.stream(self._stream) if self._stream is not None else nullcontext()

    def copy(self, payload_N: Tensor) -> Tensor:
        """Of what `receive` gave, to keep: made beside the engine's stream, complete, and usable on it."""
        with self.beside():
            copied_N = payload_N.clone()
        if self._stream is not None:
            self._stream.synchronize()
            copied_N.record_stream(torch.cuda.default_stream(self.device))
        return copied_N

    def abort(self) -> None:
        """Ends the pair without waiting for anybody."""
        self._broken = self._broken or "it was ended here"
        groups, self._out, self._in = (self._out, self._in), None, None
        _abort([group for group in groups if group is not None], self.device)

    def _make_room(self) -> None:
        try:
            self._buffer_N = torch.empty(self.max_bytes, dtype=torch.uint8, device=self.device)
        except RuntimeError as error:
            self._break(_first_line(error))

    def _launch(self, post: Callable[[], Work]) -> Work:
        if self._broken:
            raise P2PBroken(self._broken)
        try:
            return launch(self.device, post)
        except (RuntimeError, AttributeError) as error:  # gloo's closed connection; `abort` came in between
            self._break(_first_line(error))

    def _break(self, why: str) -> NoReturn:
        self._broken = self._broken or why
        raise P2PBroken(self._broken)


def _abort(groups: list[Any], device: torch.device) -> None:
    """Gloo's connections close when nobody holds the group any more."""
    if device.type == "cuda":
        for group in groups:
            group.abort()


def _settle(work: Work, payload_N: Tensor, limit_s: float) -> None:
    """Until the work is done, for `limit_s` or the payload's own timeout. Raises P2PBroken when that is over."""
    limit_s = limit_s or transfer_timeout_s(payload_N.numel())
    try:
        if payload_N.device.type == "cpu":
            work.wait(timedelta(seconds=limit_s))
            return
        # NCCL's own wait only makes the current stream wait, and then the engine's kernels stand behind a dead peer.
        deadline = time.monotonic() + limit_s
        while not work.is_completed():
            if time.monotonic() > deadline:
                raise P2PBroken(f"nothing came within {limit_s:.1f} s")
            time.sleep(POLL_S)
    except RuntimeError as error:
        raise P2PBroken(_first_line(error)) from None


def _first_line(error: Exception) -> str:
    """Torch's message without its C++ frames."""
    return str(error).splitlines()[0][:300] if str(error) else type(error).__name__
