"""Removes the pods of lost nodes from the API server, where an operator has allowed it, so that others replace them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Collection
from typing import Any

import structlog

from services.router.placement.kubernetes_events import TIMEOUT_S, EventsUnavailable, in_cluster
from services.router.placement.lost_pods import LeavingPod, LostPods

log = structlog.get_logger(__name__)

LOOK_S = 5.0


class PodRemoval:
    """Runs on every router and acts on the one that leads. `pods`: the label selector of the release's pods.

    `living`: ids of the workers that have a lease or answer without one.
    """

    def __init__(
        self,
        pods: str,
        leading: Callable[[], bool],
        living: Callable[[], Collection[str]],
        connect: Callable[[], tuple[Any, str]] = in_cluster,
        lost: LostPods | None = None,
        look_s: float = LOOK_S,
    ) -> None:
        self._pods, self._leading, self._living = pods, leading, living
        self._connect, self._lost, self._look_s = connect, lost or LostPods(), look_s
        self._failing = False

    async def run(self) -> None:
        """Looks again and again, until cancelled."""
        while True:
            await asyncio.sleep(self._look_s)
            if not self._leading():
                self._lost.forget()
                continue
            try:
                await self._look()
                self._failing = False
            except EventsUnavailable as error:
                self._lost.forget()
                if not self._failing:
                    log.warning("pods of lost nodes cannot be looked for", error=str(error))
                self._failing = True

    async def _look(self) -> None:
        leaving = await asyncio.to_thread(self._call, self._list)
        for pod in self._lost.look(leaving, self._living(), time.monotonic()):
            if await asyncio.to_thread(self._call, self._remove, pod):
                log.warning("pod of a lost node removed", pod=pod.name, uid=pod.uid)

    def _call(self, what: Callable[..., Any], *about: LeavingPod) -> Any:
        """Raises EventsUnavailable."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        api, namespace = self._connect()
        try:
            with api.api_client:
                return what(api, namespace, *about)
        except ApiException as error:
            raise EventsUnavailable(f"{error.status} {error.reason}") from None
        except (HTTPError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise EventsUnavailable(f"{type(error).__name__}: {error}") from None

    def _list(self, api: Any, namespace: str) -> list[LeavingPod]:
        # Unparsed: the client would reject an object of a newer API that lacks what it expects.
        answer = api.list_namespaced_pod(
            namespace, label_selector=self._pods, _preload_content=False, _request_timeout=TIMEOUT_S
        )
        return [leaving for pod in json.loads(answer.data)["items"] if (leaving := LeavingPod.of(pod))]

    def _remove(self, api: Any, namespace: str, pod: LeavingPod) -> bool:
        """Returns whether this pod, and not another of its name, was there to be removed."""
        from kubernetes.client import ApiException

        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod.uid}}
        try:
            api.delete_namespaced_pod(
                pod.name, namespace, body=body, _preload_content=False, _request_timeout=TIMEOUT_S
            )
        except ApiException as error:
            if error.status in (404, 409):
                return False
            raise
        return True
