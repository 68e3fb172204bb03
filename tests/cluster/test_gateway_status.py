"""`caracal status --gateway`: from a router over HTTP, or one line about what is there instead."""

from __future__ import annotations

import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from cluster_harness import ClusterUnderTest
from typer.testing import CliRunner

from services.cli import app


def _status(url: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["status", "--gateway", url], env={"COLUMNS": "200"})
    return done.exit_code, done.output


def test_the_table_comes_from_the_router(cluster: ClusterUnderTest) -> None:
    url = f"http://{cluster.records('router')[0].metrics_address}"
    code, said = _status(url)
    assert code == 0, said
    for expected in ("attention-0", "expert-0", f"epoch {cluster.epoch()}", "numerics class"):
        assert expected in said


@pytest.fixture
def something_else() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_something_else_answers(something_else: str) -> None:
    code, said = _status(something_else)
    assert (code, "is no gateway of Caracal (status 404" in said) == (1, True), said


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:1", "no gateway answers at http://127.0.0.1:1"),
        ("127.0.0.1:8000", "is no address of a gateway"),
        ("http://127.0.0.1:99999", "is no address of a gateway"),
        ("http://", "is no address of a gateway"),
    ],
)
def test_nothing_answers(url: str, expected: str) -> None:
    code, said = _status(url)
    assert (code, expected in said) == (1, True), said


@pytest.mark.parametrize("module", ["services.router.__main__", "services.attention_worker.worker", "services.cli"])
def test_the_kubernetes_client_is_not_imported(module: str) -> None:
    look = f"import sys, {module}; sys.exit('kubernetes' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", look], check=False).returncode == 0
