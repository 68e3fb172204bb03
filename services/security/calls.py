"""Calls between processes of a cluster, authenticated with the cluster key: who may make which; pure.

A caller signs its role, the method, the run of the process that it calls and a number that it never uses twice. No
clock of another machine is asked: the numbers are the caller's own monotonic time, compared with its own earlier ones
(docs/decisions/0030-cluster-key.md).
"""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

from services.security.cluster_key import ClusterKey
from services.security.identity import ATTENTION, ROUTER

HEADER = "caracal-call"

# Who may call what. Any other method of our services is for nobody; health and reflection are no services of ours.
CALLERS: Mapping[str, frozenset[str]] = {
    f"/caracal.{method}": frozenset(roles)
    for method, roles in {
        "Attention/Describe": [ROUTER],
        "Attention/Generate": [ROUTER],
        "Attention/GenerateMany": [ROUTER],
        "Attention/ApplyTable": [ROUTER],
        "Attention/Pages": [ATTENTION],
        "Expert/Describe": [ROUTER],
        "Expert/Prepare": [ROUTER],
        "Expert/Commit": [ROUTER],
        "Expert/Load": [ROUTER],
        "Expert/Tensors": [ROUTER],
        "Expert/Open": [ATTENTION],
        "Expert/Session": [ATTENTION],
        "Expert/Rendezvous": [ATTENTION],
    }.items()
}
OURS = "/caracal."
OTHER_RUN = "the call is for another run of this worker"
LATE_NS = 60 * 10**9  # a call that was signed so long before its caller's newest one is not taken
MAX_CALLERS = 4096


class CallSigner:
    """Signs one process's calls. Any thread may use it."""

    def __init__(self, key: ClusterKey, role: str, clock: Callable[[], int] = time.monotonic_ns) -> None:
        """`clock`: nanoseconds, of any beginning."""
        self._key, self._role, self._clock = key, role, clock
        self._caller = secrets.token_hex(16)
        self._last_ns = 0
        self._lock = threading.Lock()

    def metadata(self, method: str, boot_id: str) -> tuple[tuple[str, str], ...]:
        """The metadata of one call to the run `boot_id` of a process; none without a key."""
        if not self._key.given:
            return ()
        with self._lock:
            self._last_ns = stamp = max(self._last_ns + 1, self._clock())
        words = f"1 {self._role} {quote(boot_id, safe='') or '-'} {self._caller} {stamp}"
        return ((HEADER, f"{words} {_digest(self._key.signs(_label(self._role)), words, method)}"),)


@dataclass(slots=True)
class _Caller:
    newest: int = 0
    seen: set[int] = field(default_factory=set)


class CallVerifier:
    """Verifies the calls that one process gets. Any thread may use it."""

    def __init__(self, key: ClusterKey, boot_id: str) -> None:
        self._key, self._boot_id = key, quote(boot_id, safe="")
        self._callers: OrderedDict[str, _Caller] = OrderedDict()
        self._lock = threading.Lock()

    def fault(self, method: str, metadata: Iterable[tuple[str, str | bytes]]) -> str:
        """Why a call is rejected; empty when it is not."""
        if not method.startswith(OURS):
            return ""
        shown = [value for name, value in metadata if name == HEADER]
        if len(shown) != 1 or not isinstance(shown[0], str):
            return f"the call has no {HEADER}: this cluster has a key, and its callers sign with it"
        words, _, digest = shown[0].rpartition(" ")
        parts = words.split(" ")
        if len(parts) != 5 or parts[0] != "1" or not (parts[4].isascii() and parts[4].isdigit() and len(parts[4]) < 20):
            return f"{HEADER} is not of the form that this version reads"
        _, role, boot_id, caller, stamp = parts
        known = self._key.verifies(_label(role)) if role in (ROUTER, ATTENTION) else ()
        shown_digest = digest.encode(errors="replace")
        if not any(hmac.compare_digest(shown_digest, _digest(one, words, method).encode()) for one in known):
            return f"{HEADER} is not signed with this cluster's key"
        if role not in CALLERS.get(method, ()):
            return f"{method} is not for the role {role}"
        if boot_id != self._boot_id:
            return OTHER_RUN
        return "" if self._is_new(caller, int(stamp)) else "the call was made before: it is a copy"

    def _is_new(self, name: str, stamp: int) -> bool:
        """Whether the caller has not used the number before; notes it."""
        with self._lock:
            caller = self._callers.setdefault(name, _Caller())
            self._callers.move_to_end(name)
            if stamp in caller.seen or stamp <= caller.newest - LATE_NS:
                return False
            caller.newest = max(caller.newest, stamp)
            caller.seen.add(stamp)
            if len(caller.seen) % 1024 == 0:
                caller.seen = {one for one in caller.seen if one > caller.newest - LATE_NS}
            if len(self._callers) > MAX_CALLERS:
                self._callers.popitem(last=False)
            return True


def _label(role: str) -> str:
    return f"calls of role {role}"


def _digest(secret: bytes, words: str, method: str) -> str:
    return hmac.digest(secret, f"{words} {method}".encode(errors="surrogateescape"), "sha256").hex()
