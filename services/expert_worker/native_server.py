"""The expert worker's native sessions: opened by a token of the Open rpc, served by the native server's own threads.

Nothing listens before the first Open asks for it. The unix socket is an abstract one: its random name exists only in
the worker's network namespace, so a caller that finds it is on the same machine; no file is left when a worker dies.
"""

from __future__ import annotations

import secrets
import socket
import threading
from typing import TYPE_CHECKING

import structlog
import torch
from caracal_proto import expert_pb2
from caracal_proto.tensors import dtype_name

from services.expert_worker.batcher import Batcher
from services.expert_worker.call_check import Expected
from services.expert_worker.native_launch import NativeLaunch
from services.expert_worker.placement_state import PlacementState
from services.process.addresses import authority, bare, bound_socket
from services.transport.limits import MAX_ROWS
from services.transport.native_extension import native
from services.transport.payload import planes

if TYPE_CHECKING:
    from services.transport._native import ExpertTable, Server, ServerCounters

log = structlog.get_logger(__name__)

TOKEN_S = 10.0  # how long a token may be used
BACKLOG = 128


class TooManySessions(RuntimeError):
    """As many sessions are open as this worker takes."""


class NativeServer:
    """The native sessions of one expert worker. Any thread may use it. Raises NativeUnavailable when it is made."""

    def __init__(
        self,
        state: PlacementState,
        batcher: Batcher,
        expected: Expected,
        *,
        host: str,
        reachable_host: str,
        port: int = 0,
        max_sessions: int = 128,
        spin_s: float = 0.0,
        direct: bool = False,
        encrypted: bool = False,
    ) -> None:
        """`host` and `port` are listened on, `reachable_host` is what callers get to know.

        `encrypted`: each session gets keys, which the Open rpc must carry where nobody else sees them.

        `direct`: launches whose experts are computed in the model's dtype call the compiled op without Python. The
        others, and those of a worker that sends rows in another dtype, go through the batcher.
        """
        module = native()
        self.max_rows, self.max_assignments = MAX_ROWS, MAX_ROWS * expected.choices
        self._expected = module.Expected(
            layers=expected.layers,
            experts=expected.experts,
            hidden=expected.hidden,
            dispatch_dtype=dtype_name(expected.dispatch_dtype),
            reply_dtype=dtype_name(expected.dtype),
            dispatch_dtype_name=str(expected.dispatch_dtype),
            planes=planes(expected.hidden, expected.dispatch_dtype),
            max_rows=self.max_rows,
            max_assignments=self.max_assignments,
        )
        self._launch = NativeLaunch(batcher, expected)
        self._state, self._host, self._reachable_host, self._port = state, host, reachable_host, port
        self._max_sessions, self._spin_s = max_sessions, spin_s
        self._keys_bytes = module.KEYS_BYTES if encrypted else 0
        self._batcher = batcher
        self._table: ExpertTable | None = None
        if direct and expected.dispatch_dtype == expected.dtype:
            self._table = module.ExpertTable(
                expected.layers, expected.experts, expected.hidden, torch.get_num_threads()
            )
            state.experts.mirror(self._table)
        self._server: Server | None = None
        self._unix_name = f"caracal-{secrets.token_hex(16)}"
        self._starting = threading.Lock()

    @property
    def sessions(self) -> int:
        """The number of open sessions."""
        return self._server.sessions if self._server is not None else 0

    @property
    def counters(self) -> ServerCounters | None:
        """What it has counted; None before it was started."""
        return self._server.counters if self._server is not None else None

    def open(self) -> expert_pb2.OpenReply:
        """Prepares one session, and starts the server for the first. Raises TooManySessions, OSError."""
        server = self._started()
        token, session = secrets.token_bytes(32), secrets.randbits(63) + 1
        keys = secrets.token_bytes(self._keys_bytes)
        if not server.expect(token, session, TOKEN_S, keys):
            raise TooManySessions(f"{server.sessions} native sessions are open")
        return expert_pb2.OpenReply(
            session=session,
            token=token,
            host=bare(self._reachable_host),
            port=self._port,
            unix_name=self._unix_name,
            max_rows=self.max_rows,
            max_assignments=self.max_assignments,
            keys=keys,
        )

    def take_counts(self) -> None:
        """Adds the launches that ran without Python to the batcher's counters."""
        if self._table is not None:
            self._batcher.add(self._table.take_counts())

    @property
    def launch_s(self) -> float:
        """How long the launch that runs without Python has lasted; 0 without one."""
        return self._table.running_s if self._table is not None else 0.0

    @property
    def launching(self) -> int | None:
        """The native id of the thread at such a launch; None without one."""
        return (self._table.running_thread or None) if self._table is not None else None

    @property
    def launch(self) -> tuple[float, int]:
        """What only the launch has that runs without Python, and its assignments; zeros without one."""
        return self._table.running if self._table is not None else (0.0, 0)

    def end_sessions(self, why: str) -> None:
        """Ends those that are open. A launch that runs goes on, and its calls get no answer."""
        if self._server is not None:
            self._server.end_sessions(why)

    def log_endings(self) -> None:
        """Logs why sessions have ended since the last call."""
        for reason in self._server.endings() if self._server is not None else ():
            log.info("native session ended", reason=reason)

    def stop(self) -> None:
        """Ends every session."""
        with self._starting:
            if self._server is not None:
                self._server.stop()

    def _started(self) -> Server:
        with self._starting:
            if self._server is None:
                listener = bound_socket(self._host, self._port)
                listener.listen(BACKLOG)
                self._port = listener.getsockname()[1]
                server: Server = native().Server(
                    self._expected, self._max_sessions, self._spin_s, self._launch, self._table
                )
                self._state.watch_epoch(server.set_epoch)
                local = socket.socket(socket.AF_UNIX)
                local.bind("\0" + self._unix_name)
                local.listen(BACKLOG)
                self._hand_over(server, listener)
                self._hand_over(server, local)
                self._server = server
                log.info("native sessions may be opened", address=authority(self._reachable_host, self._port))
            return self._server

    def _hand_over(self, server: Server, listener: socket.socket) -> None:
        listener.setblocking(False)
        server.listen(listener.detach())
