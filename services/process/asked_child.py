"""A child process that is asked over its pipes, one thing at a time, each within a limit of CPU time.

Nothing can stop a thread that computes, or give its memory back. A process can be ended: CPU time as a limit does not
depend on how busy the machine is, and what breaks a limit ends the child, not the process that asks.
A message is two lengths of 4 bytes, JSON, and bytes. The child says with an empty one that it is there.
"""

from __future__ import annotations

import json
import math
import os
import resource
import select
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

from services.process.children import LAUNCHER, import_path

LENGTHS = struct.Struct("<II")
START_S = 60.0
LAST = "last"  # of an answer: whether the child ends after it, so that a fresh one takes its place

Head = dict[str, Any]
Answer = tuple[Head, bytes]


class ChildEnded(Exception):
    """Expected: the child has broken a limit, has crashed, or was ended."""


class ChildLate(ChildEnded):
    """Expected: there was no answer in time, and so the child was ended."""


class AskedChild:
    """The asking side: one thread asks. Started with the first question, and anew after one that ended it."""

    def __init__(self, module: str, arguments: Sequence[str], cpu_s: int, environment: Mapping[str, str]) -> None:
        """`module`: run with the arguments, it calls `serve`. `cpu_s`: of one answer. `environment`: added to ours."""
        self._program = [sys.executable, "-P", "-m", module, *arguments]
        self._cpu_s, self._environment = cpu_s, environment
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def ask(self, head: Head, data: bytes, timeout_s: float) -> Answer:
        """Returns the answer to one question. Raises ChildEnded, ChildLate; OSError when no child can be started."""
        child = self.start()
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(_message({"cpu_s": self._cpu_s, **head}, data))
            child.stdin.flush()
            answer = _read(child.stdout, time.monotonic() + timeout_s)
        except ChildEnded:
            self.close()
            raise
        except (OSError, ValueError) as error:  # ValueError: `close` has closed its pipes
            self.close()
            raise ChildEnded(str(error)) from None
        if answer[0].get(LAST):
            self.close()
        return answer

    def start(self) -> subprocess.Popen[bytes]:
        """Waits until the child is there. Raises OSError."""
        if self._child is None or self._child.poll() is not None:
            self.close()
            child = self._child = subprocess.Popen(
                [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), *self._program],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": import_path(), **self._environment},
                start_new_session=True,
            )
            assert child.stdout is not None
            try:
                _read(child.stdout, time.monotonic() + START_S)
            except ChildEnded:
                self.close()
                raise OSError(f"{self._program[3]} has ended at once") from None
        return self._child

    def close(self) -> None:
        """Ends the child, if there is one."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.communicate()


def serve(answer: Callable[[Head, bytes], Answer]) -> None:
    """The answering side: answers on standard output until there are no more questions, or one said it is the last."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    answers.write(_message({}))
    answers.flush()
    while len(lengths := requests.read(LENGTHS.size)) == LENGTHS.size:
        text, data = (requests.read(length) for length in LENGTHS.unpack(lengths))
        head = json.loads(text)
        limit_s = math.ceil(time.process_time()) + head["cpu_s"]
        resource.setrlimit(resource.RLIMIT_CPU, (limit_s, resource.RLIM_INFINITY))
        done = answer(head, data)
        resource.setrlimit(resource.RLIMIT_CPU, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        answers.write(_message(*done))
        answers.flush()
        if done[0].get(LAST):
            return


def _message(head: Head, data: bytes = b"") -> bytes:
    text = json.dumps(head, ensure_ascii=False).encode()
    return LENGTHS.pack(len(text), len(data)) + text + data


def _read(pipe: IO[bytes], deadline: float) -> Answer:
    """Reads one message. Raises ChildEnded, ChildLate."""
    lengths = _exactly(pipe, LENGTHS.size, deadline)
    head, data = (_exactly(pipe, length, deadline) for length in LENGTHS.unpack(lengths))
    return json.loads(head), data


def _exactly(pipe: IO[bytes], length: int, deadline: float) -> bytes:
    parts: list[bytes] = []
    poll = select.poll()  # not select(), which takes no descriptor above 1023
    poll.register(pipe, select.POLLIN)
    while length:
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise ChildLate
        part = os.read(pipe.fileno(), min(length, 1 << 20))
        if not part:
            raise ChildEnded
        parts.append(part)
        length -= len(part)
    return b"".join(parts)
