"""The attention workers this router knows, the channels to them, and its open attempts at each.

Keeps the last list while Redis is unavailable. `worker_choice.py` decides which worker gets a sequence.
The leader watches workers by its own rule (`placement/worker_registry.py`).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from types import MappingProxyType

import grpc
import grpc.aio
import structlog
from caracal_proto import attention_pb2
from caracal_proto.attention_pb2_grpc import AttentionStub

from services.membership.redis import RedisUnavailable
from services.prefixes.page_hint import PageHint
from services.process.loop_time import within
from services.router.requests.attempt import Attempt
from services.router.requests.attempt_stream import AttemptStream
from services.router.requests.context_limit import ContextLimit
from services.router.requests.damaged_links import DamagedLinks
from services.router.requests.prefix_hints import PrefixHints
from services.router.requests.prefix_lookup import PrefixLookup
from services.router.requests.silent_workers import StallTimeouts
from services.router.requests.stall_detector import StallDetector
from services.router.requests.unlisted_workers import UnlistedWorkers
from services.router.requests.worker_capacity import Capacity, capacity_of
from services.router.requests.worker_choice import AttentionWorkerView, choose_worker
from services.security.channels import PLAIN, Dialer
from services.security.identity import ATTENTION

log = structlog.get_logger(__name__)

CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", 64 << 20),
    ("grpc.max_receive_message_length", 64 << 20),
    # A worker that comes back on its old address must be found within a second, not after gRPC's two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    # A flipped bit in the length of a frame would leave both sides waiting for ever.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)
REFRESH_S = 0.5  # between two readings of the list
HOLD_S = 30.0  # requests wait so long after the last worker went: it restarts or is replaced
CONNECT_S = 2.0
HINTS_S = 2.0  # between two looks at what workers have cached; this router knows what it has sent meanwhile
LOOK_S = 0.03  # between two looks for workers that send nothing
PROBING_ROUTERS = 8  # that probe all workers with each reading of the list; more of them do so less often
DESCRIBE_S = 1.2  # no worker is too busy to answer Describe; that this router is does not count

ReadHints = Callable[[Sequence[str]], Awaitable[Mapping[str, PageHint]]]
ListWorkers = Callable[[], Awaitable[Sequence[AttentionWorkerView]]]
CountRouters = Callable[[], Awaitable[int]]


def reading_pause_s(refresh_s: float, *, serving: bool, busy: bool) -> float:
    """Seconds until the list is read again: twice as many while nothing runs and all is well, and fewer while nobody
    serves."""
    return refresh_s * (0.4 if not serving else 1 if busy else 2)


class AttentionWorkerPool:
    """One per router process; everything runs on its event loop.

    `list_workers` returns the workers that are alive now; it may raise RedisUnavailable. Requests wait `hold_s` for a
    worker after the last one went; with `cold_start_s` each waits so long for a first one, whenever that is. Routers
    share the workers; without `count_routers` this is the only one. Without `read_hints` nobody knows what workers have
    cached.
    `on_refresh` is called when the list has been read again.
    """

    def __init__(
        self,
        list_workers: ListWorkers,
        *,
        max_model_len: int,
        refresh_s: float = REFRESH_S,
        hold_s: float = HOLD_S,
        cold_start_s: float = 0.0,
        timeouts: StallTimeouts = StallTimeouts(),  # noqa: B008  frozen
        count_routers: CountRouters | None = None,
        read_hints: ReadHints | None = None,
        dialer: Dialer = PLAIN,
    ) -> None:
        self._dialer = dialer
        self._read_hints, self.prefixes = read_hints, PrefixHints()
        self._hints_at = -math.inf
        self._list_workers, self._count_routers = list_workers, count_routers
        self._routers, self._readings = 1, 0
        self._refresh_s, self._hold_s, self.cold_start_s = refresh_s, hold_s, cold_start_s
        self.progress_timeout_s = timeouts.progress_s
        self._model_limit = ContextLimit(max_model_len)
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._streams: dict[str, AttemptStream] = {}  # by address, as channels
        self._limits: dict[tuple[str, str], ContextLimit] = {}  # by (worker id, boot id), as is the next
        self._caches: dict[tuple[str, str], tuple[int, int]] = {}
        self._places: dict[tuple[str, str], int] = {}
        self.capacity = Capacity(1, 0)
        self.on_refresh: Callable[[], None] = lambda: None
        self._changed = asyncio.Event()
        self._damaged = DamagedLinks()
        self._stalls = StallDetector(self.answers, self._received_at, timeouts)
        self._unlisted = UnlistedWorkers(self._serves_on)
        self._served_at = -math.inf
        self.workers: tuple[AttentionWorkerView, ...] = ()
        self.open_on: Counter[str] = Counter()
        self.attempts: set[Attempt] = set()

    @property
    def context_limit(self) -> ContextLimit:
        """The most tokens of a sequence: the model's context, or less when every known worker takes less."""
        known = [limit for worker in self.workers if (limit := self._limits.get((worker.worker_id, worker.boot_id)))]
        return max(known, default=self._model_limit)

    @property
    def cache(self) -> tuple[int, int]:
        """Tokens of a page, and the pages of all known workers together; 0 while none is known."""
        caches = [self._caches[key] for key in self._limits if key in self._caches]
        return max((size for size, _ in caches), default=0), sum(pages for _, pages in caches)

    def _read_capacity(self) -> None:
        """Sums up what this router may have at the workers; while there is none, what it was at last counts."""
        serving = [worker for worker in self.workers if worker.serving]
        usable = [worker for worker in serving if worker.worker_id not in self._stalls.suspects] or serving
        if usable:
            size, pages = self.cache
            places = {worker.worker_id: self._places.get((worker.worker_id, worker.boot_id), 0) for worker in usable}
            self.capacity = Capacity(capacity_of(usable, places, self.open_on, self._routers), size * pages)

    @property
    def routers(self) -> int:
        """How many routers there are, as far as is known."""
        return self._routers

    @property
    def serving(self) -> bool:
        """Whether any worker takes new sequences now."""
        return any(worker.serving for worker in self.workers)

    @property
    def cold(self) -> bool:
        """Whether new requests wait for a first worker."""
        return self.cold_start_s > 0 and not self.serving

    def not_ready(self) -> str | None:
        """Returns why new requests are rejected; None while they are served, or held back for a worker."""
        if self.cold_start_s > 0 or time.monotonic() - self._served_at < self._hold_s:
            return None
        return self.missing()

    def missing(self) -> str | None:
        """Returns why no worker takes new sequences now; None when one does."""
        if self.serving:
            return None
        if not self.workers:
            return "no attention worker"
        if all(worker.draining for worker in self.workers):
            return "every attention worker is draining"
        return "no attention worker has a placement table yet"

    def choose(
        self, numerics_class: str | None, avoid: Collection[str], cached: Mapping[str, int] = MappingProxyType({})
    ) -> AttentionWorkerView | None:
        """The worker for a sequence. `cached`: tokens of its prompt that workers seem to have, by id."""
        return choose_worker(
            self.workers,
            self.open_on,
            numerics_class=numerics_class,
            avoid={*avoid, *self._stalls.suspects, *self._damaged.avoided(time.monotonic())},
            cached=cached,
            places={worker_id: places for (worker_id, _), places in self._places.items()},
        )

    def has_ended(self, numerics_class: str | None) -> bool:
        """Whether sequences of this class can go on no more: another class has replaced it."""
        own = [worker for worker in self.workers if worker.numerics_class == numerics_class]
        return all(worker.ended for worker in own) and any(
            worker.serving for worker in self.workers if worker.numerics_class != numerics_class
        )

    def look_up(self, ids: Sequence[int], salt: bytes) -> PrefixLookup:
        """What tells who has a prompt cached."""
        return PrefixLookup(self.prefixes, ids, salt)

    def parts_of(self, numerics_class: str) -> dict[str, str]:
        """The parts of a numerics class, as a worker of it has said; empty when none is known now."""
        return next((dict(one.numerics) for one in self.workers if one.numerics_class == numerics_class), {})

    async def stream(self, worker: AttentionWorkerView) -> AttemptStream | None:
        """Returns the stream of attempts to a worker, or None when it cannot be reached."""
        channel = await self._channel(worker)
        if channel is None:
            return None
        stream = self._streams.get(worker.address)
        if stream is not None and stream.damaged and (for_s := self._damaged.note(worker.worker_id, time.monotonic())):
            log.warning("messages to a worker are damaged, others are preferred", worker=worker.worker_id, for_s=for_s)
        if stream is None or stream.ended:
            stream = self._streams[worker.address] = AttemptStream(self._dialer.to_run(channel, worker.boot_id))
        return stream

    async def _channel(self, worker: AttentionWorkerView) -> grpc.aio.Channel | None:
        """Returns a connected channel, or None when the worker cannot be reached."""
        channel = self._channels.get(worker.address)
        if channel is None:
            channel = self._dialer.aio(worker.address, ATTENTION, CHANNEL_OPTIONS)
            self._channels[worker.address] = channel
        if channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY:
            return channel
        try:
            return channel if await within(CONNECT_S, _connects(channel)) else None
        except TimeoutError:
            return None

    async def wait_for_change(self, timeout: float) -> None:
        """Waits until the list has been read again, or for `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._changed.wait()
        except TimeoutError:
            return

    async def run(self) -> None:
        """Reads the list until cancelled, and looks for attempts that send nothing meanwhile."""
        while True:
            await self.refresh()
            pause_s = reading_pause_s(self._refresh_s, serving=self.serving, busy=bool(self.attempts))
            for look in range(math.ceil(pause_s / LOOK_S)):
                await asyncio.sleep(min(LOOK_S, pause_s))
                self._stalls.look(look, self.workers, self.attempts, self.open_on)

    async def refresh(self) -> None:
        """Reads the list once; gives up attempts that send nothing."""
        try:
            self.workers = self._unlisted.add_to(await self._list_workers(), self.workers)
            self._routers = max(1, await self._count_routers()) if self._count_routers else 1
            await self._refresh_hints()
        except RedisUnavailable:
            self._unlisted.keep(self.workers)
            log.debug("redis is unavailable, keeping the last list", workers=len(self.workers))
        if self.serving:
            self._served_at = time.monotonic()
        known = {(worker.worker_id, worker.boot_id) for worker in self.workers}
        self._limits = {key: limit for key, limit in self._limits.items() if key in known}
        self._caches = {key: cache for key, cache in self._caches.items() if key in known}
        self._places = {key: places for key, places in self._places.items() if key in known}
        new = [w for w in self.workers if w.serving and (w.worker_id, w.boot_id) not in self._limits]
        if new:
            await asyncio.gather(*map(self._describe, new))
        self._read_capacity()
        self._readings += 1
        everybody = self._readings % math.ceil(self._routers / PROBING_ROUTERS) == 0
        self._stalls.check(self.workers, self.attempts, everybody=everybody)
        wrong = {worker.boot_id for worker in self.workers if worker.wrong}
        for attempt in [one for one in self.attempts if not one.abandoned]:
            if self.has_ended(attempt.worker.numerics_class) or attempt.worker.boot_id in wrong:
                attempt.abandon()
        await self._close_unused()
        self._changed.set()
        self._changed = asyncio.Event()
        self.on_refresh()

    async def _refresh_hints(self) -> None:
        if self._read_hints is not None and time.monotonic() >= self._hints_at + HINTS_S:
            self._hints_at = time.monotonic()
            serving = [worker.worker_id for worker in self.workers if worker.serving]
            self.prefixes.update(await self._read_hints(serving) if len(serving) > 1 else {})

    async def close(self) -> None:
        self._stalls.close()
        self._unlisted.close()
        for address in list(self._channels):
            await self._close(address)

    async def _describe(self, worker: AttentionWorkerView) -> None:
        """Asks a new worker for the longest sequence that it takes."""
        described = await self._call_describe(worker)
        if described is not None:
            cached = described.kv_pages_total * described.page_size
            limit = ContextLimit.of_worker(self._model_limit.tokens, described.max_model_len, cached)
            key = worker.worker_id, worker.boot_id
            self._limits[key], self._caches[key] = limit, (described.page_size, described.kv_pages_total)
            self._places[key] = described.places

    async def answers(self, worker: AttentionWorkerView) -> bool:
        """Whether a worker at this one's address answers in time."""
        return await self._call_describe(worker) is not None

    async def still_runs(self, worker: AttentionWorkerView) -> bool:
        """Whether that run of a worker answers in time."""
        described = await self._call_describe(worker)
        return described is not None and described.boot_id == worker.boot_id

    async def _serves_on(self, worker: AttentionWorkerView) -> bool:
        described = await self._call_describe(worker)
        return described is not None and described.boot_id == worker.boot_id and not described.draining

    async def _call_describe(self, worker: AttentionWorkerView) -> attention_pb2.AttentionDescription | None:
        channel = await self._channel(worker)
        if channel is None:
            return None
        try:
            return await within(DESCRIBE_S, _describe(self._dialer.to_run(channel, worker.boot_id)))
        except (grpc.aio.AioRpcError, TimeoutError) as error:
            code = error.code().name if isinstance(error, grpc.aio.AioRpcError) else "no answer in time"
            log.info("attention worker does not answer Describe", worker=worker.worker_id, code=code)
            return None

    def _received_at(self, worker: AttentionWorkerView) -> float:
        stream = self._streams.get(worker.address)
        return stream.received_at if stream else -math.inf

    async def _close_unused(self) -> None:
        wanted = {worker.address for worker in self.workers} | {attempt.worker.address for attempt in self.attempts}
        for address in self._channels.keys() - wanted:
            await self._close(address)

    async def _close(self, address: str) -> None:
        stream = self._streams.pop(address, None)
        if stream is not None:
            await stream.close()
        await self._channels.pop(address).close(None)


async def _describe(channel: grpc.aio.Channel) -> attention_pb2.AttentionDescription:
    return await AttentionStub(channel).Describe(attention_pb2.AttentionDescribeRequest())


async def _connects(channel: grpc.aio.Channel) -> bool:
    """Whether the channel's next try to connect succeeds."""
    while (state := channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
        if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
            return False
        await channel.wait_for_state_change(state)
    return True
