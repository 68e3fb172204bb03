"""Two mends of Triton's interpreter (3.6, 3.7), which runs the kernels where there is no GPU.

One launch at a time: while a kernel runs, the interpreter swaps the functions of `triton.language` for its own and
keeps the program's index in a global, so two threads that launch take each other's away.

Swapped once a launch: it swaps them anew at every call of a device function, which took a third of the time. What a
device function's module needs beyond its kernel's is swapped at the first such call and stays, as before.
"""

from __future__ import annotations

import inspect
import threading
from functools import cache
from types import FunctionType, ModuleType
from typing import Any

import triton.language as tl
from triton.runtime import interpreter

_running = threading.Lock()
_launch = interpreter.GridExecutor.__call__
_swap = interpreter._patch_lang
_swapped: set[ModuleType] = set()  # for the launch that runs now
_staying: set[ModuleType] = set()  # by device functions; never swapped back


def _launch_alone(self: Any, *arguments: Any, **options: Any) -> None:
    with _running:
        _swapped.clear()
        _launch(self, *arguments, **options)


@cache
def _languages(function: FunctionType) -> frozenset[ModuleType]:
    """Which of the two modules a function sees."""
    return frozenset(
        value for value in function.__globals__.values() if inspect.ismodule(value) and value in (tl, tl.core)
    )


def _swap_once(function: FunctionType) -> Any:
    languages = _languages(function)
    if languages <= _swapped | _staying:
        return interpreter._LangPatchScope()
    (_staying if _swapped else _swapped).update(languages - _swapped)
    return _swap(function)


def install() -> None:
    interpreter.GridExecutor.__call__ = _launch_alone
    interpreter._patch_lang = _swap_once
