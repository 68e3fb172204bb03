"""Triton bodies, one op per file, named as the op whose rows they compute. Imported only where they run.

Without a GPU they run in Triton's interpreter, on CPU tensors: slow, and the same code.
"""

from __future__ import annotations

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when triton is imported, which must not have happened yet

if os.environ.get("TRITON_INTERPRET") == "1":
    from caracal_kernels.triton.interpreter import install

    install()
