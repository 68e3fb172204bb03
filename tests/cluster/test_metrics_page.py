"""A worker's metrics page: formats, names, compression."""

from __future__ import annotations

import gzip
import socket
import threading
import time
import urllib.request
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from services.process.metrics_server import REQUEST_S, THREADS, serve_metrics

# What Prometheus 2 and 3 send.
PROMETHEUS_2 = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,*/*;q=0.1"
PROMETHEUS_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=0.0.4;q=0.4"


@pytest.fixture(scope="module")
def url() -> str:
    registry = CollectorRegistry()
    Counter("caracal:things", "Things", ["kind"], registry=registry).labels("a").inc()
    return f"http://127.0.0.1:{serve_metrics('127.0.0.1', 0, registry)}/metrics"


def get(url: str, **headers: str) -> tuple[bytes, str]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    with urllib.request.urlopen(urllib.request.Request(url, headers=named)) as page:
        return page.read(), page.headers["content-type"]


def test_text_is_the_default(url: str) -> None:
    page, content_type = get(url)
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert b'\ncaracal:things_total{kind="a"} 1.0\n' in page


@pytest.mark.parametrize("accept", [PROMETHEUS_2, PROMETHEUS_3])
def test_openmetrics_has_the_same_names(url: str, accept: str) -> None:
    page, content_type = get(url, accept=accept)
    assert content_type == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    (family,) = text_string_to_metric_families(page.decode())  # type: ignore[no-untyped-call]  # it has no annotations
    assert "caracal:things_total" in {sample.name for sample in family.samples}


def test_a_page_is_compressed_for_who_accepts_it(url: str) -> None:
    page, _ = get(url, accept_encoding="gzip")
    assert gzip.decompress(page).split()[:3] == get(url)[0].split()[:3]


def test_clients_that_never_finish_their_request_take_few_threads_and_let_others_in(url: str) -> None:
    place, before, began = urlsplit(url), threading.active_count(), time.monotonic()
    with ExitStack() as stack:
        for _ in range(2 * THREADS):
            half = stack.enter_context(socket.create_connection((place.hostname, place.port)))
            half.sendall(b"GET /metrics HTTP/1.1\r\n")
        assert get(url)[0]
        assert threading.active_count() <= before + THREADS
    assert time.monotonic() - began < 4 * REQUEST_S
