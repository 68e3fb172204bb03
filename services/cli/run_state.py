"""State files of local clusters: `caracal up` writes one; `status`, `scale` and `generate` read it."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from operator import itemgetter
from pathlib import Path


class NoCluster(Exception):
    """No cluster is known or can be reached. The message is one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """Addresses of a running local cluster, and the process id of its `caracal up`."""

    pid: int
    url: str
    redis_url: str
    cluster: str = "caracal"


def state_directory() -> Path:
    """The directory of state files: in XDG_RUNTIME_DIR, else in the user's cache, else (no writable HOME) in /tmp."""
    home_directory = Path(os.environ.get("HOME") or "/nonexistent")
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        base = Path(runtime)
    elif os.access(home_directory, os.W_OK):
        base = Path(os.environ.get("XDG_CACHE_HOME") or home_directory / ".cache")
    else:
        base = Path(tempfile.gettempdir()) / f"caracal-{os.getuid()}"
    return base / "caracal"


def save(state: RunState) -> None:
    path = _path(state.pid)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(asdict(state)))
    draft.replace(path)


def clear(pid: int) -> None:
    """Deletes the state file of the `caracal up` with this process id."""
    _path(pid).unlink(missing_ok=True)


def find() -> RunState:
    """Finds the cluster that CARACAL_URL names, else the one started last. Raises NoCluster.

    CARACAL_REDIS_URL may name the Redis of a cluster that was not started here; a URL is never combined with the Redis
    of another cluster.
    """
    url, redis_url = os.environ.get("CARACAL_URL", "").rstrip("/"), os.environ.get("CARACAL_REDIS_URL", "")
    if redis_url:
        return RunState(pid=0, url=url, redis_url=redis_url, cluster=os.environ.get("CARACAL_CLUSTER") or "caracal")
    states, dead = _running()
    if url:
        named = [state for state in states if state.url == url]
        return named[-1] if named else RunState(pid=0, url=url, redis_url="")
    if states:
        return states[-1]
    ended = "the last cluster here did not exit cleanly" if dead else "no cluster is running here"
    raise NoCluster(f"{ended}: start one with `caracal up`, or name another with CARACAL_URL and CARACAL_REDIS_URL")


def _path(pid: int) -> Path:
    return state_directory() / f"run-{pid}.json"


def _running() -> tuple[list[RunState], int]:
    """Clusters whose process runs, oldest first, and how many did not exit cleanly; deletes the files of the latter."""
    states: list[tuple[float, RunState]] = []
    dead = 0
    for path in state_directory().glob("run-*.json"):
        try:
            state = RunState(**json.loads(path.read_text()))
            os.kill(state.pid, 0)
            states.append((path.stat().st_mtime, state))
        except (ProcessLookupError, ValueError, TypeError):
            path.unlink(missing_ok=True)
            dead += 1
        except OSError:
            continue
    return [state for _, state in sorted(states, key=itemgetter(0))], dead
