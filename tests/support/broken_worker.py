"""Worker processes of a running cluster that are broken in one way, as a module of tests/support says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from support.cluster_harness import ClusterUnderTest
from support.worker_processes import REPO

PATHS = os.pathsep.join(str(REPO / part) for part in (".", "kernels", "proto", "tests"))


@contextmanager
def broken_worker(
    cluster: ClusterUnderTest, module: str, worker_id: str, environment: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs one more worker of this cluster, whose weights are not compared with their checksums, and ends it."""
    local = cluster.local
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("CARACAL_")}
    given = {
        "MODEL": str(local.settings.model),
        "REDIS_URL": local.redis_url,
        "CLUSTER": local.cluster,
        "CLUSTER_KEY_FILE": str(local.key_file),
        "WORKER_ID": worker_id,
        "SCRUB_S": "0",
        "THREADS": "1",
    }
    worker = subprocess.Popen(
        [sys.executable, "-m", f"support.{module}"],
        env=inherited | {"PYTHONPATH": PATHS} | {f"CARACAL_{key}": value for key, value in given.items()} | environment,
        cwd=REPO,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield worker
    finally:
        worker.kill()
        worker.communicate()
