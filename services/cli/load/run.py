"""Sends the requests of a run, each a task of one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import aiohttp

from services.cli.load.arrivals import arrivals
from services.cli.load.client import ServerError, request_body, send
from services.cli.load.outcome import Outcome
from services.cli.load.progress import preparing, watch
from services.cli.load.prompts import make_prompts
from services.cli.load.server import Server
from services.cli.load.settings import BadOption, Dataset, Load

Done = Callable[[Outcome], None]


@dataclass(frozen=True, slots=True)
class Run:
    """Outcomes in the order of the requests, and seconds from the first until the last was done.

    `interrupted`: Ctrl-C ended it early; requests that were open are not among the outcomes.
    """

    model: str
    outcomes: list[Outcome]
    duration: float
    interrupted: bool = False


async def run(load: Load, dataset: Dataset, note: Callable[[str], None], progress: bool) -> Run:
    """Makes prompts, sends warm-up requests and then all others; `note` gets what a reader of the report has to know.

    Raises ServerError when the server does not answer or rejects the warm-up, BadOption.
    """
    headers = load.headers | ({"Authorization": f"Bearer {load.api_key}"} if load.api_key else {})
    timeout = aiohttp.ClientTimeout(total=load.timeout_s)
    connector = aiohttp.TCPConnector(limit=0)  # as many connections as requests are open
    async with aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout) as session:
        server = Server(session, load.base_url)
        server.model = load.model or await server.first_model()
        tokenizer = server if await server.tokenizes() else None
        added = await server.added() if tokenizer and not load.chat else 0
        with preparing(progress):
            prompts = await make_prompts(dataset, tokenizer, note, added)
        if not load.chat and any(not prompt.text for prompt in prompts):
            raise BadOption("--dataset-path: messages are for a chat: give --endpoint /v1/chat/completions")
        bodies = [request_body(load, server.model, prompt) for prompt in prompts]
        url = f"{load.base_url}{load.endpoint}"
        await _warm_up(session, url, bodies[0], load)
        with watch(len(bodies), progress) as done:
            return replace(await _send_all(session, url, bodies, load, done), model=server.model)


async def _warm_up(session: aiohttp.ClientSession, url: str, body: dict[str, Any], load: Load) -> None:
    """Sends the first request so many times. Raises ServerError when that fails."""
    together = load.max_concurrency or max(1, load.warmups)
    for start in range(0, load.warmups, together):
        count = min(together, load.warmups - start)
        for outcome in await asyncio.gather(*(send(session, url, body) for _ in range(count))):
            if outcome.error:
                raise ServerError(f"the warm-up request to {url} failed: {outcome.error}")


async def _send_all(
    session: aiohttp.ClientSession, url: str, bodies: Sequence[dict[str, Any]], load: Load, done: Done
) -> Run:
    places = asyncio.Semaphore(load.max_concurrency) if load.max_concurrency else contextlib.nullcontext()
    finished: dict[int, Outcome] = {}
    start = time.perf_counter()

    async def one(number: int, due: float) -> None:
        await asyncio.sleep(start + due - time.perf_counter())
        wanted = time.perf_counter()
        async with places:
            outcome = await send(session, url, bodies[number])
        outcome.queued = outcome.start - wanted
        finished[number] = outcome
        done(outcome)

    due = arrivals(len(bodies), load.rate, load.burstiness, load.seed)
    tasks = [asyncio.create_task(one(number, due[number])) for number in range(len(bodies))]
    with _interrupts() as interrupted:
        stop = asyncio.create_task(interrupted.wait())
        everything = asyncio.gather(*tasks)
        futures: list[asyncio.Future[Any]] = [stop, everything]
        await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
        duration = time.perf_counter() - start
        stop.cancel()
        if interrupted.is_set():
            everything.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await everything
        ordered = [finished[number] for number in sorted(finished)]
        return Run("", ordered, duration, interrupted.is_set())


@contextmanager
def _interrupts() -> Iterator[asyncio.Event]:
    """Yields an event that the first Ctrl-C sets; a second one ends the process as usual."""
    loop, event = asyncio.get_running_loop(), asyncio.Event()

    def stop() -> None:
        event.set()
        loop.remove_signal_handler(signal.SIGINT)

    loop.add_signal_handler(signal.SIGINT, stop)
    try:
        yield event
    finally:
        loop.remove_signal_handler(signal.SIGINT)
