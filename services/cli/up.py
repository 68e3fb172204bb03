"""`caracal up`: starts a cluster on this machine, prints one answer of it, and serves until Ctrl-C."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import structlog

from services.cli.generate import NoChatTemplate, RequestFailed, stream_chat, stream_completion
from services.cli.run_state import RunState, clear, save
from services.cli.terminal import say
from services.local.cluster import LocalCluster, StartFailed
from services.local.redis_server import NoRedis
from services.local.settings import DEFAULT_MODEL, LocalSettings
from services.process.lifecycle import ending_signals
from services.process.open_files import raise_open_files
from services.process.settings import InvalidSetting
from services.process.telemetry import configure_logging, progress

log = structlog.get_logger(__name__)

READY_S = 300.0
SAMPLE = "What is 12 + 30?"
SAMPLED: dict[str, Any] = {"max_tokens": 48, "temperature": 0}
BASE_MODEL = """\
The model has no chat template: it continues text, and /v1/chat/completions is closed.

"""
BUILT_IN_MODEL = """\
The built-in model is a small one: it adds, counts, converts units, remembers facts, and calls tools.
To most other questions it answers that it does not know.

"""


def up(settings: LocalSettings) -> None:
    """Runs a cluster until Ctrl-C, SIGTERM or SIGHUP. Exits with 1 and one line when it cannot be started."""
    try:
        configure_logging("up")
        raise_open_files()
        asyncio.run(_up(settings))
    except (InvalidSetting, NoRedis, StartFailed, ValueError) as error:
        _fail(str(error))


async def _up(settings: LocalSettings) -> None:
    settings.check_port()
    stopped = asyncio.Event()
    for number in ending_signals():
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    cluster = LocalCluster(settings)
    work = asyncio.create_task(_serve(cluster))
    stop = asyncio.create_task(stopped.wait())
    try:
        await asyncio.wait([work, stop], return_when=asyncio.FIRST_COMPLETED)
    finally:
        work.cancel()
        stop.cancel()
        clear(os.getpid())
        if stopped.is_set():
            say("stopping ...")
        await asyncio.gather(work, stop, return_exceptions=True)
        await cluster.stop()
    if work.done() and not work.cancelled():
        work.result()


async def _serve(cluster: LocalCluster) -> None:
    say(f"starting {_counts(cluster)} for {cluster.settings.model.name}; logs in {cluster.directory}")
    if os.environ.get("CARACAL_REDIS_URL"):
        say("CARACAL_REDIS_URL is not used: this cluster has a Redis of its own")
    await cluster.start()
    with progress("waiting for workers") as report:
        await cluster.ready(READY_S, report)
    url = cluster.urls[0]
    try:
        directory = str(cluster.directory)
        state = RunState(
            pid=os.getpid(),
            url=url,
            redis_url=cluster.redis_url,
            cluster=cluster.cluster,
            directory=directory,
            key_file=str(cluster.key_file),
            admin_url=cluster.admin_url,
        )
        save(state)
    except OSError as error:
        known = f"CARACAL_URL={url} CARACAL_REDIS_URL={cluster.redis_url} CARACAL_CLUSTER_KEY_FILE={cluster.key_file}"
        log.warning("other commands will not find this cluster by themselves", error=str(error), set=known)
    running = asyncio.create_task(cluster.run())
    try:
        chats = await asyncio.to_thread(_sample, url)
        say(usage(url, cluster.settings.model, chats=chats, console=(cluster.admin_url, cluster.console_token)))
        await running
    finally:
        running.cancel()


def _sample(url: str) -> bool:
    """Streams the answer to SAMPLE to the terminal; returns whether the model takes messages. Raises StartFailed.

    A model without a chat template continues SAMPLE instead.
    """
    key = os.environ.get("CARACAL_API_KEY", "")
    if os.environ.get("CARACAL_API_KEYS_FILE") and not key:
        say("Requests need an API key; commands here take it from CARACAL_API_KEY.")
        return True
    say(f"\n> {SAMPLE}")
    chats = True
    try:
        try:
            _write(stream_chat(url, SAMPLE, api_key=key, **SAMPLED))
        except NoChatTemplate:
            chats = False
            _write(stream_completion(url, SAMPLE, api_key=key, **SAMPLED))
    except RequestFailed as error:
        raise StartFailed(f"the cluster is up but does not answer: {error}") from None
    say("\n")
    return chats


def _write(text_deltas: Iterator[str]) -> None:
    for text_delta in text_deltas:
        say(text_delta, end="")


def usage(url: str, model: Path, *, chats: bool = True, console: tuple[str, str] = ("", "")) -> str:
    """What to try with the cluster, and what the built-in model knows if `model` is its directory.

    `console`: the URL of the admin port and the console's token.
    """
    body = {"messages": [{"role": "user", "content": SAMPLE}]} if chats else {"prompt": SAMPLE, "max_tokens": 48}
    data = shlex.quote(json.dumps({**body, "stream": True}))
    route = "chat/completions" if chats else "completions"
    return f"""{BUILT_IN_MODEL if model.resolve() == DEFAULT_MODEL.resolve() else ""}\
{"" if chats else BASE_MODEL}Caracal serves at {url} (OpenAI API under {url}/v1). Try:

  curl -N {url}/v1/{route} -H 'Content-Type: application/json'{_key_header()} -d {data}

In another terminal:

  caracal generate 'What is 7 * 8?'
  caracal status --watch
  caracal scale expert=3

{_console(*console)}With several clusters on this machine, set CARACAL_URL={url} for these commands.
Ctrl-C stops everything."""


def _key_header() -> str:
    return ' -H "x-api-key: $CARACAL_API_KEY"' if os.environ.get("CARACAL_API_KEYS_FILE") else ""


def _console(url: str, token: str) -> str:
    """The console's URL. The token is behind a #, so that browsers send it to nobody."""
    if not token or os.environ.get("CARACAL_CONSOLE", "").lower() in ("0", "false"):
        return ""
    return f"In a browser, where this URL also allows scaling:\n\n  {url}/console/#token={token}\n\n"


def _counts(cluster: LocalCluster) -> str:
    counts = cluster.counts
    return f"{counts['router']} router, {counts['attention']} attention and {counts['expert']} expert worker(s)"


def _fail(message: str) -> NoReturn:
    print(f"caracal: {message}", file=sys.stderr, flush=True)
    sys.exit(1)
