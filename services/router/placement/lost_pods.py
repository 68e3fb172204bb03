"""Which pods are those of lost nodes. Pure.

A StatefulSet's pod stays Terminating until its node says that it has ended, and a lost node says nothing: without a
word from outside, nothing replaces the pod. Two things show that it is lost. Kubernetes deleted it because of a taint
of its node. And its worker has been silent for long, although a node that answers soon removes a pod that has ended.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Self

SILENT_S = 30.0  # of silence
BY_TAINT = "DeletionByTaintManager"


@dataclass(frozen=True, slots=True)
class LeavingPod:
    """A pod that is Terminating. `by_node`: because of a taint of its node."""

    name: str
    uid: str
    by_node: bool

    @classmethod
    def of(cls, pod: Any) -> Self | None:
        """Reads a pod as the API server lists it; None where it is not leaving.

        Raises:
            KeyError, TypeError, AttributeError: it is no pod.
        """
        about, status = pod["metadata"], pod.get("status") or {}
        if not about.get("deletionTimestamp"):
            return None
        conditions = status.get("conditions") or ()
        by_node = any(
            condition["type"] == "DisruptionTarget"
            and condition["status"] == "True"
            and condition.get("reason") == BY_TAINT
            for condition in conditions
        )
        return cls(about["name"], about["uid"], by_node)


class LostPods:
    """Remembers since when pods that leave have been silent. Times are of the monotonic clock, in seconds."""

    def __init__(self, silent_s: float = SILENT_S) -> None:
        self._silent_s = silent_s
        self._since: dict[str, float] = {}  # by uid

    def look(self, leaving: Iterable[LeavingPod], living: Collection[str], now: float) -> list[LeavingPod]:
        """Returns the pods that are lost. `living`: ids of workers, which are their pods' names."""
        silent = [pod for pod in leaving if pod.by_node and pod.name not in living]
        self._since = {pod.uid: self._since.get(pod.uid, now) for pod in silent}
        return [pod for pod in silent if now - self._since[pod.uid] >= self._silent_s]

    def forget(self) -> None:
        """Begins anew: what was seen is no evidence any more."""
        self._since.clear()
