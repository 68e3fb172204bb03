"""Traces of this process: off, and then nothing of OpenTelemetry is imported here, unless `configure` turns them on.

Who makes spans asks `active()` first. Each process exports its own spans; what ties them together is the W3C trace
context that requests carry.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from services.process.otel import Otel

_active: Otel | None = None


def configure(role: str, worker_id: str) -> None:
    """Turns tracing on if the OTEL_* variables of this process say so. Raises InvalidSetting."""
    # Here, since the model's code, which knows no sockets, imports this module.
    from services.process.settings import InvalidSetting
    from services.process.tracing_variables import otlp_protocol

    global _active
    protocol = otlp_protocol(os.environ)
    if protocol is None:
        return
    try:
        from services.process.otel import Otel
    except ImportError as error:
        raise InvalidSetting(
            f"OTEL_EXPORTER_OTLP_ENDPOINT: OpenTelemetry is not installed, pip install 'caracal[otel]' ({error})"
        ) from None
    _active = Otel(protocol, role, worker_id)


def active() -> Otel | None:
    """What makes spans; None while tracing is off."""
    return _active


def shutdown() -> None:
    """Exports what is left, for a moment at most, and turns tracing off."""
    global _active
    was, _active = _active, None
    if was is not None:
        was.close()


def exemplar() -> Mapping[str, str] | None:
    """The current span as labels of an exemplar; None without one, or when its trace is not sampled."""
    return _active.exemplar() if _active is not None else None


def add_trace_ids(_: Any, __: str, event: Any) -> Any:
    """A processor of structlog: adds trace_id and span_id of the current span."""
    return {**event, **_active.log_fields()} if _active is not None else event
