"""Waits until another process, such as the chart's Job, has made a folder complete; says in the log how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import structlog

from services.weights.fetch import is_enough
from services.weights.folder import Complete, Folder

log = structlog.get_logger(__name__)

LOOK_S, LOG_S = 1.0, 10.0
STALLED_S = 60.0  # without news of the process that fetches


def wait_until_complete(path: Path, address: str, scope: str, look_s: float = LOOK_S) -> Complete:
    """Returns what the folder has in the end; it may be read-only here."""
    folder, logged_s = Folder(path), float("-inf")
    while True:
        done = folder.complete()
        if done is not None and is_enough(done, address, scope):
            log.info("the weights are there", folder=str(path), address=address)
            return done
        if time.monotonic() - logged_s > LOG_S:
            logged_s = time.monotonic()
            log.info("waits for the weights", reason=reason(folder.progress(), address, time.time))
        time.sleep(look_s)


def reason(progress: Mapping[str, Any], address: str, clock: Callable[[], float]) -> str:
    """What is waited for, in words. `progress`: what the process that fetches wrote last."""
    if progress.get("address") != address:
        return f"nobody has begun to fetch {address}: the Job's log says why"
    try:
        far = f"{progress['gb']} of {progress['of_gb']} GB"
        silent_s = clock() - float(progress["at"])
        if silent_s > STALLED_S:
            return f"no news for {silent_s:.0f} s, at {far}: the Job's log says why"
        return f"{far}, {progress['mb_per_s']} MB/s, {progress['left_min']} min left"
    except (KeyError, TypeError, ValueError):
        return f"{address} is being fetched"
