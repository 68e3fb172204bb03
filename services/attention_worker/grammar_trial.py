"""Compiles grammars in a child process first, which is ended when one takes too long, too much memory, or crashes.

A few lines of JSON schema can ask for more states than there are atoms; nothing can stop a thread that computes them.
The child: `python -m services.attention_worker.grammar_trial`. Messages are a length of 4 bytes and UTF-8.
"""

from __future__ import annotations

import math
import os
import resource
import select
import struct
import subprocess
import sys
import time
from typing import IO

from services.process.children import LAUNCHER, import_path

TRIAL_S = 5  # of CPU for one grammar; a schema of 3000 properties takes a tenth of it
TIMEOUT_S = 60.0  # how long that may take on a machine that others use
TRIAL_BYTES = 2 << 30  # of address space
TOO_MUCH = "it takes too long or too much memory to compile"

_LENGTH = struct.Struct("<I")


class NotCompiledInTime(Exception):
    """Expected: the machine is too busy to say whether a grammar can be compiled."""


class GrammarTrial:
    """A child process that tries grammars, one at a time; started with the first, and anew after one that ended it."""

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._timeout_s = timeout_s

    def error_of(self, grammar: str) -> str:
        """Returns why a grammar cannot be compiled; empty for one that can. Raises NotCompiledInTime."""
        child = self._running()
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(_frame(grammar))
            child.stdin.flush()
            error = _answer(child.stdout, time.monotonic() + self._timeout_s)
        except TimeoutError:
            self.close()
            raise NotCompiledInTime("a grammar is not compiled in time") from None
        except OSError:
            error = None
        if error is None:
            self.close()
            return TOO_MUCH
        return error

    def close(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.communicate()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            self.close()
            program = [sys.executable, "-P", "-m", "services.attention_worker.grammar_trial"]
            self._child = subprocess.Popen(
                [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), *program],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": import_path()},
                start_new_session=True,
            )
            assert self._child.stdout is not None
            if _answer(self._child.stdout, time.monotonic() + 60) is None:  # that it is there
                raise OSError("a process for grammars cannot be started")
        return self._child


def _frame(text: str) -> bytes:
    data = text.encode(errors="replace")
    return _LENGTH.pack(len(data)) + data


def _answer(pipe: IO[bytes], deadline: float) -> str | None:
    """Reads one message; None when the child has ended. Raises TimeoutError."""
    data = b""
    while len(data) < _LENGTH.size or len(data) < _LENGTH.size + _LENGTH.unpack_from(data)[0]:
        readable, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
        if not readable:
            raise TimeoutError
        part = os.read(pipe.fileno(), 1 << 16)
        if not part:
            return None
        data += part
    return data[_LENGTH.size :].decode()


def _allow_cpu(seconds: int) -> None:
    """Ends this process after so many more seconds of its own work, however long they take."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used.ru_utime + used.ru_stime) + seconds, hard))


def main() -> None:
    from llguidance import LLMatcher, LLParserLimits

    resource.setrlimit(resource.RLIMIT_AS, (TRIAL_BYTES, TRIAL_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limits = LLParserLimits(verbose_errors=False)
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    answers.write(_frame(""))
    answers.flush()
    while len(head := requests.read(_LENGTH.size)) == _LENGTH.size:
        grammar = requests.read(_LENGTH.unpack(head)[0]).decode()
        _allow_cpu(TRIAL_S)
        answers.write(_frame(LLMatcher.validate_grammar(grammar, limits=limits)))
        answers.flush()


if __name__ == "__main__":
    main()
