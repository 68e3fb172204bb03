"""A router's servers over given attention workers: `python -m bench.gateway.router MODEL ADDRESS ...`.

Everything of a router that a token passes, without Redis and placement. Prints its URL; ends with its standard input.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import structlog
import uvloop
from prometheus_client import CollectorRegistry

from bench.gateway.sent_at import MODEL
from services.process.garbage import keep_what_is_made
from services.process.open_files import raise_open_files
from services.router.gateway.context import GatewayContext
from services.router.requests.assets import ModelAssets
from services.router.requests.attention_workers import AttentionWorkerPool
from services.router.requests.choice_stream import ServingContext
from services.router.requests.metrics import RequestMetrics
from services.router.requests.worker_choice import AttentionWorkerView
from services.router.servers import RouterServers


async def serve(model: Path, addresses: Sequence[str]) -> None:
    assets = ModelAssets.load(model, MODEL)
    views = [
        AttentionWorkerView(worker_id=f"attention-{i}", address=address, boot_id=str(i), numerics_class="fake", epoch=1)
        for i, address in enumerate(addresses)
    ]

    async def directory() -> Sequence[AttentionWorkerView]:
        return views

    pool = AttentionWorkerPool(directory, max_model_len=assets.max_model_len)
    serving = ServingContext(assets, pool, RequestMetrics(MODEL, CollectorRegistry()))
    servers = RouterServers(GatewayContext(serving))
    await servers.start("127.0.0.1", 0, 0, "127.0.0.1", 0)
    keep_what_is_made()
    print(f"http://127.0.0.1:{servers.http_port}", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await servers.stop(0.1)


def main() -> None:
    raise_open_files()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    uvloop.run(serve(Path(sys.argv[1]), sys.argv[2:]))


if __name__ == "__main__":
    main()
