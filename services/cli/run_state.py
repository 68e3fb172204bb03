"""State files of local clusters: `caracal up` writes one; `status`, `scale` and `generate` read it."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from operator import itemgetter
from pathlib import Path

from services.cli.gateway_url import gateway_url
from services.process.redis_url import url_violation, without_password


class NoCluster(Exception):
    """No cluster is known or can be reached. The message is one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """Addresses of a running local cluster, the process id of its `caracal up`, the folder of its logs, and the file of
    its cluster key; without one, the key is the environment's. `url` is of the API, `admin_url` of the admin port."""

    pid: int
    url: str
    redis_url: str
    cluster: str = "caracal"
    directory: str = ""
    key_file: str = ""
    admin_url: str = ""


def state_directory() -> Path:
    """The directory of state files: in XDG_RUNTIME_DIR, else in the user's cache, else (no writable HOME) in /tmp.

    After su or sudo, XDG_RUNTIME_DIR may be another user's: then it counts as not set.
    """
    home_directory = Path(os.environ.get("HOME") or "/nonexistent")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and _is_ours(Path(runtime)):
        base = Path(runtime)
    elif os.access(home_directory, os.W_OK):
        base = Path(os.environ.get("XDG_CACHE_HOME") or home_directory / ".cache")
    else:
        base = Path(tempfile.gettempdir()) / f"caracal-{os.getuid()}"
    return base / "caracal"


def _is_ours(path: Path) -> bool:
    """Whether it is a folder of this user, who may write there."""
    try:
        return path.is_dir() and path.stat().st_uid == os.geteuid() and os.access(path, os.W_OK | os.X_OK)
    except OSError:
        return False


def save(state: RunState) -> None:
    """Raises OSError when there is no place for it."""
    path = _path(state.pid)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(asdict(state)))
    draft.replace(path)


def clear(pid: int) -> None:
    """Deletes the state file of the `caracal up` with this process id."""
    with contextlib.suppress(OSError):
        _path(pid).unlink(missing_ok=True)


def find(url: str = "") -> RunState:
    """Finds the cluster that the URL of a gateway names, by default CARACAL_URL, else the one started last. Raises
    NoCluster.

    CARACAL_REDIS_URL may name the Redis of a cluster that was not started here; a URL is never combined with the Redis
    of another cluster.
    """
    url, redis_url = gateway_url(url or os.environ.get("CARACAL_URL", "")), os.environ.get("CARACAL_REDIS_URL", "")
    if redis_url:
        if violation := url_violation(redis_url):
            raise NoCluster(f"CARACAL_REDIS_URL is {without_password(redis_url)!r}: {violation}")
        here = [state.key_file for state in _running()[0] if state.redis_url == redis_url]
        cluster = os.environ.get("CARACAL_CLUSTER") or "caracal"
        return RunState(pid=0, url=url, redis_url=redis_url, cluster=cluster, key_file=here[-1] if here else "")
    states, dead = _running()
    if url:
        named = [state for state in states if state.url == url]
        return named[-1] if named else RunState(pid=0, url=url, redis_url="")
    if states:
        return states[-1]
    ended = "the last cluster here did not exit cleanly" if dead else "no cluster is running here"
    raise NoCluster(f"{ended}: start one with `caracal up`, or name another with CARACAL_URL and CARACAL_REDIS_URL")


def admin_url(url: str) -> str:
    """Returns the URL of the admin port of a gateway that `caracal up` started here; else the URL itself."""
    named = [state for state in _running()[0] if state.url == gateway_url(url)]
    return (named[-1].admin_url if named else "") or url


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
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            dead += 1
        except OSError:
            continue
    return [state for _, state in sorted(states, key=itemgetter(0))], dead
