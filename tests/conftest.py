"""For all tests: Triton's interpreter where there is no GPU, a guard of the marker `processes`, Hypothesis,
and garbage collection, which took an eighth of the time."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Triton reads it when it is first imported, and transformers imports it: set before any test is read.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# The tests share the cores: an example may take long without being at fault.
settings.register_profile("shared cores", deadline=None)
settings.load_profile("shared cores")

# A shell that starts a command in the background has it ignore Ctrl-C, and so would all that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # likewise under nohup

# Reading the tests only adds objects, and none of them is garbage before the last test has ended.
gc.disable()

STARTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn"}
running: list[pytest.Item] = []


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    gc.freeze()
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    running[:] = [item]
    try:
        return (yield)
    finally:
        running.clear()


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    """`make test-fast` leaves out what is marked `processes`; so what starts one has to be marked.

    But for the child that renders chats: every router has it, and it is there within a fifth of a second.
    """
    if event == "subprocess.Popen" and "services.router.requests.text_child" in arguments[1]:  # type: ignore[operator]
        return
    if event in STARTS and running and running[0].get_closest_marker("processes") is None:
        raise RuntimeError(f"{running[0].nodeid} starts a process: mark its module with pytest.mark.processes")


sys.addaudithook(_watch)
