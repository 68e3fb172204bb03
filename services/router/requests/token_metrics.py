"""The two metrics that every token touches, without the locks and loops of the client library's own.

Written on the event loop only; read by whoever collects.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar


class TokenMetrics(Collector):
    """How many tokens were generated, and the seconds between two of a sequence. `buckets`: their upper bounds."""

    def __init__(self, model_name: str, buckets: Sequence[float]) -> None:
        self._model_name, self._bounds = model_name, tuple(buckets)
        self._counts = [0] * (len(self._bounds) + 1)
        self._exemplars: dict[int, Exemplar] = {}  # the latest of each bucket
        self._seconds = 0.0
        self.tokens = 0

    def between(self, seconds: float, times: int, exemplar: Mapping[str, str] | None = None) -> None:
        """Counts `times` tokens that came so long after the ones before."""
        bucket = bisect_left(self._bounds, seconds)
        self._counts[bucket] += times
        self._seconds += seconds * times
        if exemplar is not None:
            self._exemplars[bucket] = Exemplar(dict(exemplar), seconds)

    def collect(self) -> Iterator[Metric]:
        tokens = CounterMetricFamily("caracal:generation_tokens", "Tokens generated", labels=["model_name"])
        tokens.add_metric([self._model_name], self.tokens)
        yield tokens
        between = HistogramMetricFamily(
            "caracal:inter_token_latency_seconds", "Time between two tokens of a sequence", labels=["model_name"]
        )
        so_far = 0
        buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
        for place, (bound, count) in enumerate(zip([*map(str, self._bounds), "+Inf"], self._counts, strict=True)):
            so_far += count
            exemplar = self._exemplars.get(place)
            buckets.append((bound, so_far) if exemplar is None else (bound, so_far, exemplar))
        between.add_metric([self._model_name], buckets, self._seconds)
        yield between
