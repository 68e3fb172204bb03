"""Where a running local cluster can be found: a small file that `status`, `scale` and `generate` read."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path


class NoCluster(Exception):
    """No cluster is known here; one line says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """What `caracal up` leaves for other commands."""

    pid: int
    url: str
    redis_url: str
    cluster: str = "caracal"


def state_path() -> Path:
    """In XDG_RUNTIME_DIR, else in the home's cache, else (no home that can be written) among temporary files."""
    home = Path(os.environ.get("HOME") or "/nonexistent")
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        base = Path(runtime)
    elif os.access(home, os.W_OK):
        base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    else:
        base = Path(tempfile.gettempdir()) / f"caracal-{os.getuid()}"
    return base / "caracal" / "run.json"


def save(state: RunState) -> None:
    path = state_path()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_suffix(f".{state.pid}")
    draft.write_text(json.dumps(asdict(state)))
    draft.replace(path)


def clear(pid: int) -> None:
    """Removes the file if it is this process's."""
    try:
        if json.loads(state_path().read_text()).get("pid") == pid:
            state_path().unlink()
    except (OSError, ValueError, AttributeError):
        return


def find() -> RunState:
    """The running cluster's state; CARACAL_URL and CARACAL_REDIS_URL come first. Raises NoCluster."""
    url, redis_url = os.environ.get("CARACAL_URL", ""), os.environ.get("CARACAL_REDIS_URL", "")
    try:
        state = RunState(**json.loads(state_path().read_text()))
        os.kill(state.pid, 0)
    except FileNotFoundError:
        state, why = None, "no cluster is running here: start one with `caracal up`"
    except ProcessLookupError:
        state, why = None, "the last cluster here has ended without a farewell: start one with `caracal up`"
    except (OSError, ValueError, TypeError) as error:
        state, why = None, f"{state_path()} cannot be read: {error}"
    cluster = os.environ.get("CARACAL_CLUSTER") or (state.cluster if state else "caracal")
    if state is None and not (url or redis_url):
        raise NoCluster(why + ", or name another with CARACAL_URL and CARACAL_REDIS_URL")
    return RunState(
        pid=state.pid if state else 0,
        url=url or (state.url if state else ""),
        redis_url=redis_url or (state.redis_url if state else ""),
        cluster=cluster,
    )
