"""One interpreted kernel at a time.

While a kernel runs, Triton's interpreter (3.6, 3.7) swaps the functions of `triton.language` for its own and keeps the
program's index in a global: two threads that launch take each other's away.
"""

from __future__ import annotations

import threading
from typing import Any

from triton.runtime.interpreter import GridExecutor

_running = threading.Lock()
_launch = GridExecutor.__call__


def _launch_alone(self: GridExecutor, *arguments: Any, **options: Any) -> None:
    with _running:
        _launch(self, *arguments, **options)


def install() -> None:
    GridExecutor.__call__ = _launch_alone
