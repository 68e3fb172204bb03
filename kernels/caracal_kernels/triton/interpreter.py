"""Mends of Triton's interpreter (3.6, 3.7), which runs the kernels where there is no GPU.

One launch at a time: while a kernel runs, the interpreter swaps the functions of `triton.language` for its own and
keeps the program's index in a global, so two threads that launch take each other's away.

Swapped once a launch: it swaps them anew at every call of a device function, which took a third of the time. What a
device function's module needs beyond its kernel's is swapped at the first such call and stays, as before.

No check for overflow whose result nobody sees: it costs another third, and only `debug` makes it raise. A type's numpy
dtype, and what a block's type and a tensor derive from a shape, are computed once, not at every operation: a quarter.
"""

from __future__ import annotations

import inspect
import threading
from dataclasses import replace
from functools import cache
from types import FunctionType, ModuleType
from typing import Any

import triton.language as tl
from triton.runtime import interpreter

_running = threading.Lock()
_POINTER = interpreter._get_np_dtype(tl.pointer_type(tl.int8))
_numpy_dtype_of = cache(interpreter._get_np_dtype)
_init_block_type, _init_tensor = tl.block_type.__init__, tl.tensor.__init__
_block_types: dict[tuple[str, tuple[int, ...]], tuple[Any, int, str]] = {}
_shapes: dict[tuple[int, ...], tuple[Any, Any]] = {}
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


def _numpy_dtype(type_: Any) -> Any:
    scalar = type_.element_ty if isinstance(type_, tl.block_type) else type_
    return _POINTER if isinstance(scalar, tl.pointer_type) else _numpy_dtype_of(scalar)


def _block_type(self: Any, element_ty: Any, shape: Any) -> None:
    """`tl.block_type.__init__`, with what it derives looked up: by the name, because pointer types have no hash."""
    key = str(element_ty), tuple(getattr(size, "value", size) for size in shape)
    if key not in _block_types:
        _init_block_type(self, element_ty, shape)
        _block_types[key] = self.shape, self.numel, self.name
    self.element_ty = element_ty
    self.shape, self.numel, self.name = _block_types[key]


def _tensor(self: Any, handle: Any, type_: Any) -> None:
    """`tl.tensor.__init__`, with the shape as constants looked up."""
    key = tuple(type_.shape) if type_.is_block() else ()
    if key not in _shapes:
        _init_tensor(self, handle, type_)
        _shapes[key] = self.shape, self.numel
    self.handle, self.type, self.dtype = handle, type_, type_.scalar
    self.shape, self.numel = _shapes[key]


def install() -> None:
    tl.block_type.__init__ = _block_type
    tl.tensor.__init__ = _tensor
    builder = interpreter.interpreter_builder
    builder.options = replace(builder.options, sanitize_overflow=builder.options.debug)
    interpreter._get_np_dtype = _numpy_dtype
    interpreter.GridExecutor.__call__ = _launch_alone
    interpreter._patch_lang = _swap_once
