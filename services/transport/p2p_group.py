"""A P2P group: one attention worker (the caller) and one expert worker, connected by torch.distributed.

Gloo carries CPU tensors, NCCL CUDA ones, through the same calls. There is no torch.distributed world: each P2P group
has its own store and process groups, so P2P groups connect, end and break independently.

It has two process groups, one per direction. NCCL has no tags, so on one communicator sends and receives must match in
order: a caller that sends call 2 before it receives reply 1 would deadlock with a worker that sends reply 1 before it
receives call 2. With one process group per direction both sides post sends and receives in the order in which the
session's gRPC stream announces them. Gloo would need only one; it gets two so that both backends work alike.

Launch order between P2P groups does not matter. A receive is launched after its announcement, and that is sent after
the matching send was launched, so a receive waits only for bytes. A send waits until its receive is launched, which
the peer's launch thread does as soon as the announcement arrives, since it does nothing but launch. So there is no
deadlock as long as waiting sends leave multiprocessors for receives: each process group runs at most one kernel at a
time, of MAX_CTAS blocks, so 2 * MAX_CTAS * (P2P groups) must stay below the device's multiprocessors.
NCCL_LAUNCH_ORDER_IMPLICIT stays 0: with it one group's receive would be queued behind another group's send.

A process group that has failed is aborted, never destroyed: NCCL's destroy waits for the dead peer. Gloo has no abort:
only the end of the connection or its own timeout ends a blocked wait (torch 2.13: abort() and shutdown() do nothing, a
timeout closes the connection). Hence every wait here is bounded by `transfer_timeout_s`.

Gloo ends the process when a message is longer than the buffer posted for it, or when no buffer is posted. So gloo
receives into the whole buffer: a peer that sends another length than it announced fails the checksum and breaks only
its P2P group. A peer that sends more than `max_bytes`, or writes to gloo's socket directly, can still end the process:
only members of the cluster may be able to reach these ports.

Legend: N bytes.
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
SILENCE_S = 0.8  # how late an announced payload may be, besides its transfer, before the peer counts as gone
MIN_BYTES_PER_S = 50e6
POLL_S = 20e-6


class P2PBroken(ConnectionError):
    """The peer is gone, silent, or out of step; the P2P group cannot be used any more."""


def transfer_timeout_s(nbytes: int) -> float:
    """How long to wait for an announced payload of `nbytes`."""
    return SILENCE_S + nbytes / MIN_BYTES_PER_S


class Sent:
    """A send in progress. Its tensor must not change before `wait` returns or the peer has replied."""

    def __init__(self, work: Work, payload_N: Tensor) -> None:
        self._work, self._payload_N = work, payload_N

    def wait(self, limit_s: float = 0.0) -> None:
        """Waits until the peer has received the payload. Raises P2PBroken."""
        _wait(self._work, self._payload_N, limit_s)


class P2PGroup:
    """One side of a P2P group. One thread sends and one receives; any thread may call `abort`.

    `receive` returns a view of one buffer of `max_bytes`, valid until the next `receive`. The buffer is allocated for
    the first payload, so that an unused group takes no memory.
    """

    def __init__(self, rank: int, groups: list[Any], max_bytes: int, device: torch.device) -> None:
        self.max_bytes = max_bytes
        self.device = device
        self._out, self._in, self._peer = groups[rank], groups[1 - rank], 1 - rank
        self._buffer_N = torch.empty(1, dtype=torch.uint8, device=device)  # for the handshake
        # Receives must not queue behind the engine's kernels: they are to overlap with them.
        cuda = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if cuda else None
        self._sends = self._receives = 0
        self._broken = ""

    @classmethod
    def connect(cls, store: Store, rank: int, max_bytes: int, device: torch.device, host: str) -> P2PGroup:
        """Connects to the peer, which calls this at the same time with the other rank. Raises P2PBroken.

        Returns when one byte has gone each way. `host` is this side's address as the peer can reach it.
        """
        build = nccl if device.type == "cuda" else gloo
        groups: list[Any] = []
        try:
            for name in GROUPS:
                groups.append(build(PrefixStore(name, store), rank, device, host))
            p2p = cls(rank, groups, max_bytes, device)
            # In the same order on both sides, or each would wait for the other's process group.
            for sender in (CALLER, WORKER):
                if rank == sender:
                    p2p.send(torch.ones(1, dtype=torch.uint8, device=device)).wait(HANDSHAKE_S)
                else:
                    p2p.receive(1, HANDSHAKE_S)
        except Exception as error:  # noqa: BLE001 - what a peer sends goes through C++, which may raise anything
            _abort(groups, device)
            raise P2PBroken(_first_line(error)) from None
        return p2p

    def send(self, payload_N: Tensor) -> Sent:
        """Launches the send of the next payload, uint8 [N]; after that it may be announced. Raises P2PBroken."""
        self._sends += 1
        group, tag = self._out, self._sends % 2**30
        return Sent(self._launch(lambda: group.send([payload_N], self._peer, tag)), payload_N)

    def receive(self, nbytes: int, limit_s: float = 0.0) -> Tensor:
        """The next payload, uint8 [N], which must have been announced. Raises P2PBroken."""
        if not 0 < nbytes <= self.max_bytes:
            self._break(f"{nbytes} bytes were announced, the buffer takes {self.max_bytes}")
        self._receives += 1
        if self._receives == 2:  # after the handshake's byte
            self._allocate_buffer()
        group, tag, got_N = self._in, self._receives % 2**30, self._buffer_N[:nbytes]
        # NCCL needs the same length on both sides; gloo needs a buffer for any length that may come.
        into_N = self._buffer_N if self.device.type == "cpu" else got_N

        def post() -> Work:
            with self.beside():
                return group.recv([into_N], self._peer, tag)  # type: ignore[no-any-return]  # see gloo

        work = self._launch(post)
        try:
            _wait(work, got_N, limit_s)
        except P2PBroken as error:
            self._break(str(error))
        return got_N

    def beside(self) -> AbstractContextManager[object]:
        """A context in which work is queued on the stream that receives payloads; without a GPU it changes nothing."""
        return torch.cuda.stream(self._stream) if self._stream is not None else nullcontext()

    def copy(self, payload_N: Tensor) -> Tensor:
        """A copy of what `receive` returned, complete, and usable on the engine's stream without waiting for it."""
        with self.beside():
            copied_N = payload_N.clone()
        if self._stream is not None:
            self._stream.synchronize()
            copied_N.record_stream(torch.cuda.default_stream(self.device))
        return copied_N

    def abort(self) -> None:
        """Ends the P2P group without waiting for the peer."""
        self._broken = self._broken or "it was ended here"
        groups, self._out, self._in = (self._out, self._in), None, None
        _abort([group for group in groups if group is not None], self.device)

    def _allocate_buffer(self) -> None:
        try:
            self._buffer_N = torch.empty(self.max_bytes, dtype=torch.uint8, device=self.device)
        except RuntimeError as error:
            self._break(_first_line(error))

    def _launch(self, post: Callable[[], Work]) -> Work:
        if self._broken:
            raise P2PBroken(self._broken)
        try:
            return launch(self.device, post)
        except (RuntimeError, AttributeError) as error:  # gloo's connection is closed; `abort` has set a group to None
            self._break(_first_line(error))

    def _break(self, why: str) -> NoReturn:
        self._broken = self._broken or why
        raise P2PBroken(self._broken)


def _abort(groups: list[Any], device: torch.device) -> None:
    """Aborts NCCL's process groups; gloo's connections close when the last reference to the group is dropped."""
    if device.type == "cuda":
        for group in groups:
            group.abort()


def _wait(work: Work, payload_N: Tensor, limit_s: float) -> None:
    """Waits for a send or receive, for `limit_s` or, at 0, `transfer_timeout_s`. Raises P2PBroken after that."""
    limit_s = limit_s or transfer_timeout_s(payload_N.numel())
    try:
        if payload_N.device.type == "cpu":
            work.wait(timedelta(seconds=limit_s))
            return
        # NCCL's own wait only makes the current stream wait: the engine's kernels would then queue behind a dead peer.
        deadline = time.monotonic() + limit_s
        while not work.is_completed():
            if time.monotonic() > deadline:
                raise P2PBroken(f"nothing was transferred within {limit_s:.1f} s")
            time.sleep(POLL_S)
    except RuntimeError as error:
        raise P2PBroken(_first_line(error)) from None


def _first_line(error: Exception) -> str:
    """An exception's message without torch's C++ frames."""
    return str(error).splitlines()[0][:300] if str(error) else type(error).__name__
