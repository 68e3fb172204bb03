"""The text of a metrics page, in the format that its reader accepts."""

from __future__ import annotations

from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

OPENMETRICS = "application/openmetrics-text"
OPENMETRICS_TYPE = f"{OPENMETRICS}; version=1.0.0; charset=utf-8"


def metrics_page(collector: Collector, accept: str) -> tuple[bytes, str]:
    """Returns the page and its content type: OpenMetrics, which has exemplars, where `accept` names it, else text.

    The client library's own choice would replace the colon of `caracal:` by an underscore in OpenMetrics, as if it
    were not a character of metric names.
    """
    _, chosen = choose_encoder(accept)
    if not chosen.startswith(OPENMETRICS):
        return generate_latest(collector), CONTENT_TYPE_PLAIN_0_0_4
    page = openmetrics.generate_latest(  # type: ignore[no-untyped-call]  # it has no annotations
        collector, openmetrics.ALLOWUTF8, "1.0.0"
    )
    return page, OPENMETRICS_TYPE
