"""Registers every op with torch.library: one schema, and the body that fits the tensors' device.

A schema is read off the reference's signature, so it stands in one place. Bodies: on CUDA the Triton one; on a CPU the
compiled one of `_cpu`, else the reference, or Triton's interpreter with CARACAL_KERNELS=triton. Torch checks each body
against the schema when it is registered, and picks one at each call by the device of its tensors.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar, cast

import torch

from caracal_kernels.backend import cpu_backend, loading_error

P = ParamSpec("P")
R = TypeVar("R")

# Any: torch leaves its methods untyped
_LIBRARY: Any = torch.library.Library("caracal", "DEF")


def define_op(
    reference: Callable[P, R], *, fake: Callable[..., object], triton: str | None = None, mutates: Sequence[str] = ()
) -> Callable[P, R]:
    """The op `caracal::NAME` for `NAME_reference`, callable with the reference's own signature.

    `fake` gives tensors of the result's shapes for torch's tracers. `triton` names the module in caracal_kernels.triton
    that has `NAME_triton`; it is imported at the first call that needs it; without one, the op is for CPUs. `mutates`:
    arguments that are written to.
    """
    name = reference.__name__.removesuffix("_reference")
    _LIBRARY.define(name + torch.library.infer_schema(reference, mutates_args=mutates))
    on_triton = triton and _imported_at_first_call(f"caracal_kernels.triton.{triton}", f"{name}_triton")
    if on_triton:
        _LIBRARY.impl(name, on_triton, "CUDA")
    if loading_error() is not None:
        _LIBRARY.impl(name, _raise_loading_error, "CPU")
    elif on_triton and cpu_backend() == "triton":
        _LIBRARY.impl(name, on_triton, "CPU")
    elif cpu_backend() == "reference" or not _has_compiled_body(name):
        _LIBRARY.impl(name, reference, "CPU")
    torch.library.register_fake(f"caracal::{name}", fake, lib=_LIBRARY)
    return cast("Callable[P, R]", getattr(torch.ops.caracal, name).default)


def _has_compiled_body(name: str) -> bool:
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(f"caracal::{name}", "CPU"))


def _raise_loading_error(*_: object, **__: object) -> Any:
    error = loading_error()
    assert error is not None
    raise error


def _imported_at_first_call(module: str, name: str) -> Callable[..., Any]:
    body: Callable[..., Any] | None = None

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal body
        if body is None:
            body = getattr(importlib.import_module(module), name)
        return body(*args, **kwargs)

    return call
