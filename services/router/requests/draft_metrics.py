"""How many tokens attention workers drafted, and how many of them were right, under vLLM's names.

Written on the event loop only; read by whoever collects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from caracal_proto import attention_pb2
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

PREFIX = "caracal:spec_decode_"
MOST_PLACES = 16  # of a draft; no worker drafts so many


class DraftMetrics(Collector):
    """Counts the drafts of tokens as they come."""

    def __init__(self, model_name: str) -> None:
        self._model_name = model_name
        self._drafts = self._tokens = 0
        self._accepted = [0]  # by place in the draft

    def count(self, tokens: Sequence[attention_pb2.Token]) -> None:
        """Counts tokens that continue a sequence."""
        for token in tokens:
            if token.drafted:
                self._drafts += 1
                self._tokens += token.drafted
            if 0 < (place := token.draft_place) <= MOST_PLACES:
                self._accepted += [0] * (place - len(self._accepted))
                self._accepted[place - 1] += 1

    def collect(self) -> Iterator[Metric]:
        yield self._family("num_drafts", "Drafts that were verified, one per answer and step", self._drafts)
        yield self._family("num_draft_tokens", "Tokens drafted", self._tokens)
        yield self._family("num_accepted_tokens", "Tokens drafted right", sum(self._accepted))
        by_place = CounterMetricFamily(
            f"{PREFIX}num_accepted_tokens_per_pos",
            "Tokens drafted right, by their place in the draft",
            labels=["model_name", "position"],
        )
        for place, count in enumerate(self._accepted):
            by_place.add_metric([self._model_name, str(place)], count)
        yield by_place

    def _family(self, name: str, text: str, value: float) -> Metric:
        family = CounterMetricFamily(PREFIX + name, text, labels=["model_name"])
        family.add_metric([self._model_name], value)
        return family
