"""A router with real servers over fake attention workers, on an event loop of its own thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import openai
import uvloop
from prometheus_client import CollectorRegistry
from support.fake_attention import FakeAttention

from services.membership.shortage import CapacityShortage
from services.router.access.control import Access
from services.router.connection_times import ConnectionTimeouts
from services.router.console.console import Console
from services.router.gateway.context import GatewayContext
from services.router.gateway.responses_api.store import ResponseStore
from services.router.recording.metrics import RecordMetrics
from services.router.recording.record_file import RecordFile
from services.router.recording.recorder import Recorder, Source
from services.router.requests.admission import AdmissionLimits
from services.router.requests.assets import ModelAssets
from services.router.requests.attention_workers import AttentionWorkerPool
from services.router.requests.choice_stream import ServingContext
from services.router.requests.metrics import RequestMetrics
from services.router.requests.silent_workers import StallTimeouts
from services.router.requests.text_process import TextProcesses
from services.router.requests.worker_choice import AttentionWorkerView
from services.router.servers import RouterServers

if TYPE_CHECKING:
    import anthropic

T = TypeVar("T")
_texts: dict[Path, SharedTexts] = {}  # of each model, for all routers of the tests
MODEL = "tiny-cat"


class SharedTexts(TextProcesses):
    """Ends with the tests."""

    def close(self) -> None:
        """Does nothing: other routers go on using it."""


def texts_of(assets: ModelAssets) -> SharedTexts:
    return _texts.setdefault(assets.directory, SharedTexts(assets.directory))


class MutableDirectory:
    """The list of attention workers, which tests change."""

    def __init__(self) -> None:
        self.workers: list[AttentionWorkerView] = []

    async def attention_workers(self) -> Sequence[AttentionWorkerView]:
        return list(self.workers)


class Harness:
    """A context manager: starts `fakes`, lists them in `directory`, then starts the router."""

    def __init__(
        self,
        assets: Path,
        *fakes: FakeAttention,
        progress_s: float = 30.0,
        lost_s: float = 2.0,
        hold_s: float = 0.0,
        cold_start_s: float = 0.0,
        sampling_defaults: bool = True,
        cors_origins: Sequence[str] = (),
        redis_url: str = "",
        response_ttl_s: int = 60,
        response_memory_mb: int = 16,
        console: Callable[[], Console] | None = None,
        connection_timeouts: ConnectionTimeouts = ConnectionTimeouts(),  # noqa: B008  frozen
        limits: AdmissionLimits = AdmissionLimits(),  # noqa: B008  frozen
        api_keys: Path | None = None,
        run: tuple[str, str] = ("", ""),
        record: Path | None = None,
    ) -> None:
        """`console` is called on the router's loop."""
        self._record = record
        self._redis_url, self._ttl_s, self._memory_mb = redis_url, response_ttl_s, response_memory_mb
        self._limits, self._api_keys, self._run = limits, api_keys, run
        self._cors_origins, self._make_console = cors_origins, console
        self._connection_timeouts = connection_timeouts
        self.assets = ModelAssets.load(assets, MODEL, sampling_defaults=sampling_defaults)
        self.fakes = fakes
        self.directory = MutableDirectory()
        self._timeouts, self._hold_s = StallTimeouts(lost_s=lost_s, progress_s=progress_s), hold_s
        self._cold_start_s = cold_start_s
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._stopped = False
        self._client: openai.OpenAI | None = None
        self._anthropic: anthropic.Anthropic | None = None
        self.shortage: CapacityShortage | None = None
        self.unproven: Callable[[], str | None] = lambda: None  # what /ready asks a probe

    def __enter__(self) -> Harness:
        self._thread.start()
        self.do(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        for client in (self._client, self._anthropic):
            if client is not None:
                client.close()
        if not self._stopped:
            self.stop(0.5)
        for fake in self.fakes:
            self.do(fake.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine on the router's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def stop(self, grace_s: float) -> None:
        self._stopped = True
        self._loop.call_soon_threadsafe(self._watch.cancel)
        self.do(self.servers.stop(grace_s))
        if self.serving.recorder is not None:
            self.serving.recorder.close()
        if self.store is not None:
            self.do(self.store.close())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.servers.http_port}"

    @property
    def admin_url(self) -> str:
        return f"http://127.0.0.1:{self.servers.admin_port}"

    def client(self) -> openai.OpenAI:
        """The same one each time: another would read the machine's certificates again, 20 ms of CPU."""
        if self._client is None:
            self._client = openai.OpenAI(base_url=self.url + "/v1", api_key="unused", max_retries=0)
        return self._client

    def anthropic(self) -> anthropic.Anthropic:
        """The same one each time."""
        import anthropic  # a second of CPU that most tests do not need

        if self._anthropic is None:
            self._anthropic = anthropic.Anthropic(base_url=self.url, api_key="unused", max_retries=0)
        return self._anthropic

    def ids(self, text: str) -> list[int]:
        return self.assets.encode(text, add_special_tokens=False)

    async def _start(self) -> None:
        for fake in self.fakes:
            await fake.start()
            self.directory.workers.append(fake.record())
        limit = self.assets.max_model_len
        attention_workers = AttentionWorkerPool(
            self.directory.attention_workers,
            max_model_len=limit,
            refresh_s=0.05,
            hold_s=self._hold_s,
            cold_start_s=self._cold_start_s,
            timeouts=self._timeouts,
        )
        self.metrics = RequestMetrics(MODEL, CollectorRegistry())
        self.serving = ServingContext(self.assets, attention_workers, self.metrics, self._limits, texts_of(self.assets))
        self.record_metrics = RecordMetrics()
        if self._record is not None:
            source = Source(model=MODEL, directory=self.assets.directory, parts=attention_workers.parts_of)
            self.serving.recorder = Recorder(RecordFile(self._record, 10**9, 2), source, self.record_metrics)
        self.store = (
            ResponseStore(self._redis_url, "test", ttl_s=self._ttl_s, memory_mb=self._memory_mb, call_s=0.5)
            if self._redis_url
            else None
        )
        self.console = self._make_console() if self._make_console else None
        access = Access(self._api_keys)
        self._watch = asyncio.create_task(access.watch())
        gateway = GatewayContext(
            self.serving,
            lambda: self.shortage,
            responses=self.store,
            access=access,
            console=self.console,
            unproven=lambda: self.unproven(),
            run=self._run,
        )
        self.servers = RouterServers(gateway, self._cors_origins, self._connection_timeouts)
        await self.servers.start("127.0.0.1", 0, 0, "127.0.0.1", 0)
