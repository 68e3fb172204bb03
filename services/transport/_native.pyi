from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

HEADER_BYTES: int
TOKEN_BYTES: int
BUILD_ID: str

class Kind:
    HELLO: Kind
    WELCOME: Kind
    CALL: Kind
    REPLY: Kind
    PING: Kind
    PONG: Kind

def frame(kind: Kind, session: int, body: bytes) -> bytes: ...
def welcome_fault(data: bytes, session: int) -> str | None: ...
def crc32c(data: bytes) -> int: ...
def crc32c_table(data: bytes) -> int: ...

class Plan:
    """Addresses of a plan's arrays; `serial` is int64, the others are int32."""

    def __init__(
        self, serial: int, row: int, row_count: int, row_of: int, expert: int, count: int, workers: int
    ) -> None: ...

class Sent:
    """Calls in flight. It keeps the memory alive that it was given to keep."""

    def wait(self, timeout_s: float) -> None: ...
    def failures(self) -> list[tuple[int, int, int, int, bytes]]: ...
    def not_finite(self) -> list[int]: ...
    @property
    def all_well(self) -> bool: ...
    @property
    def arrived_s(self) -> float: ...

class Client:
    def __init__(self, heartbeat_s: float, silent_beats: int, spin_s: float, reply_dtype: int) -> None: ...
    def add(self, fd: int, session: int) -> int: ...
    def end(self, serial: int, why: str) -> None: ...
    def why_over(self, serial: int) -> str: ...
    @property
    def generation(self) -> int: ...
    def touch(self) -> None: ...
    @property
    def sessions(self) -> int: ...
    def scatterer(self) -> object: ...
    def adopt(self, owner: object, kept: object) -> Sent: ...
    def scatter(
        self,
        step: int,
        layer: int,
        epoch: int,
        deadline_ms: int,
        hidden: int,
        dtype: int,
        planes: Sequence[tuple[int, int]],
        plan: Plan,
        reply: int,
        reply_row_bytes: int,
        kept: object,
    ) -> Sent: ...

class Expected:
    def __init__(
        self,
        layers: int,
        experts: int,
        hidden: int,
        dispatch_dtype: int,
        reply_dtype: int,
        dispatch_dtype_name: str,
        planes: Sequence[int],
        max_rows: int,
        max_assignments: int,
    ) -> None: ...

class ServerCounters:
    answered: int
    rejected: int
    late: int
    opened: int
    refused: int

Launch = Callable[
    [int, list[float], int, memoryview | None, memoryview | None, memoryview | None, memoryview | None],
    tuple[int | None, str] | None,
]

class ExpertTable:
    """The weights of loaded experts, for launches without Python."""

    def __init__(self, layers: int, experts: int, hidden: int, threads: int) -> None: ...
    def set(self, layer: int, expert: int, gate_up: Tensor, down: Tensor) -> None: ...
    def drop(self, layer: int, expert: int) -> None: ...
    @property
    def running_s(self) -> float: ...
    def take_counts(self) -> tuple[int, int, int, int, float, list[float], NDArray[np.int64]]: ...

class Server:
    def __init__(
        self,
        expected: Expected,
        max_sessions: int,
        spin_s: float,
        launch: Launch,
        direct: ExpertTable | None = None,
    ) -> None: ...
    def listen(self, fd: int) -> None: ...
    def adopt(self, fd: int) -> None: ...
    def expect(self, token: bytes, session: int, ttl_s: float) -> bool: ...
    def set_epoch(self, epoch: int) -> None: ...
    def stop(self) -> None: ...
    @property
    def sessions(self) -> int: ...
    @property
    def counters(self) -> ServerCounters: ...
    def endings(self) -> list[str]: ...
