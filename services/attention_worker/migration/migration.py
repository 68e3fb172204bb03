"""The two sides of KV migration in one worker: pages for others, and pages from them."""

from __future__ import annotations

from services.attention_worker.engine.engine import Engine
from services.attention_worker.migration.page_fetcher import PageFetcher
from services.attention_worker.migration.page_server import PageServer
from services.attention_worker.migration.stats import MigrationStats
from services.security.channels import Dialer


class Migration:
    """Made on the event loop of the worker's service."""

    def __init__(self, engine: Engine, dialer: Dialer) -> None:
        self.stats = MigrationStats()
        self.server = PageServer(engine.exchange, self.stats)
        self.fetcher = PageFetcher(engine, dialer, self.stats)
