"""The span of the layers that native code runs in one call.

Native code knows no spans: how long each layer took for its exchange with experts is read off the counters.
Legend: L layers, N counters.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from services.process import tracing


@contextmanager
def layers_span(first: int, seconds_LN: Tensor) -> Iterator[None]:
    """A block that runs layers from `first` on. `seconds_LN` has exposed time and round trip of each, as sums."""
    otel = tracing.active()
    span = otel.child("native layers", {"caracal.layer": first}) if otel is not None else None
    if span is None:
        yield
        return
    before_LN = seconds_LN.clone()
    try:
        yield
    finally:
        exposed, round_trip = (seconds_LN - before_LN)[first:].T.tolist()
        span.set_attributes({"caracal.exposed_seconds": exposed, "caracal.round_trip_seconds": round_trip})
        span.end()
