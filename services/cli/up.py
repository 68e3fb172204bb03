"""`caracal up`: a cluster on this machine, its first answer as the proof, and the wait for Ctrl-C."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import sys
from typing import NoReturn

from services.cli.generate import RequestFailed, stream_chat
from services.cli.run_state import RunState, clear, save
from services.local.cluster import LocalCluster, StartFailed
from services.local.redis_server import NoRedis
from services.local.settings import InvalidSetting, LocalSettings
from services.process.telemetry import configure_logging, progress

READY_S = 300.0
SAMPLE = "What is 12 + 30?"


def up(settings: LocalSettings) -> None:
    """Blocks until Ctrl-C or SIGTERM. Exits with 1 and one line when the cluster cannot be started."""
    try:
        configure_logging("up")
        asyncio.run(_up(settings))
    except (InvalidSetting, NoRedis, StartFailed, ValueError) as error:
        _fail(str(error))


async def _up(settings: LocalSettings) -> None:
    settings.check()
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    cluster = LocalCluster(settings)
    work = asyncio.create_task(_serve(cluster))
    told = asyncio.create_task(stopped.wait())
    try:
        await asyncio.wait([work, told], return_when=asyncio.FIRST_COMPLETED)
    finally:
        work.cancel()
        told.cancel()
        clear(os.getpid())
        if stopped.is_set():
            _say("stopping ...")
        await asyncio.gather(work, told, return_exceptions=True)
        await cluster.stop()
    if work.done() and not work.cancelled():
        work.result()


async def _serve(cluster: LocalCluster) -> None:
    _say(f"starting {_counts(cluster)} for {cluster.settings.model.name}; logs in {cluster.directory}")
    await cluster.start()
    with progress("waiting for workers") as report:
        await cluster.ready(READY_S, report)
    url = cluster.urls[0]
    save(RunState(pid=os.getpid(), url=url, redis_url=cluster.redis_url, cluster=cluster.cluster))
    running = asyncio.create_task(cluster.run())
    try:
        await asyncio.to_thread(_sample, url)
        _greet(url)
        await running
    finally:
        running.cancel()


def _sample(url: str) -> None:
    """Streams one answer to the terminal. Raises StartFailed."""
    _say(f"\n> {SAMPLE}")
    try:
        for text in stream_chat(url, SAMPLE, max_tokens=48, temperature=0):
            sys.stdout.write(text)
            sys.stdout.flush()
    except RequestFailed as error:
        raise StartFailed(f"the cluster is up but does not answer: {error}") from None
    _say("\n")


def _greet(url: str) -> None:
    body = {"messages": [{"role": "user", "content": SAMPLE}], "stream": True}
    _say(f"Caracal serves at {url} (OpenAI API under {url}/v1). Try:\n")
    _say(
        f"  curl -N {url}/v1/chat/completions -H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body))}\n"
    )
    _say(f"More than one cluster here? CARACAL_URL={url} tells the commands below which one is meant.")
    _say("In another terminal: caracal status --watch · caracal scale expert=3 · caracal generate 'What is 7 * 8?'")
    _say("Ctrl-C stops everything.")


def _counts(cluster: LocalCluster) -> str:
    counts = cluster.counts
    return f"{counts['router']} router, {counts['attention']} attention and {counts['expert']} expert worker(s)"


def _say(text: str) -> None:
    print(text, flush=True)


def _fail(message: str) -> NoReturn:
    print(f"caracal: {message}", file=sys.stderr, flush=True)
    sys.exit(1)
