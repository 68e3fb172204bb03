"""A client with one request: each token is checked when it comes; another router goes on where its own has died."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from simulation.oracle import answer
from simulation.streams import Stream
from simulation.timeline import Process

if TYPE_CHECKING:
    from simulation.world import World

AGAIN_S = 0.1


@dataclass(frozen=True, slots=True)
class Ask:
    """A request. `known`: tokens that its client has already, from the worker that `worker_tag` names."""

    request_id: str
    prompt_ids: tuple[int, ...]
    seed: int
    max_tokens: int
    known: int = 0
    worker_tag: str = ""


@dataclass(frozen=True, slots=True)
class Delivered:
    """A token for the client, from the worker of that tag."""

    index: int
    id: int
    worker_tag: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The answer's end: its finish reason, or an error's code."""

    reason: str
    code: str = ""


class Client(Process):
    """`leaves_after`: so many tokens; 0 = it stays to the end."""

    def __init__(self, world: World, number: int, prompt: tuple[int, ...], max_tokens: int, leaves_after: int) -> None:
        super().__init__(world.timeline, f"client-{number}")
        self._world, self._number = world, number
        self._prompt, self._max_tokens, self._leaves_after = prompt, max_tokens, leaves_after
        self.ids: list[int] = []
        self.oracle, self.oracle_reason = answer(number, prompt, max_tokens)
        self.endings: list[str] = []
        self.left = False
        self._tag = ""
        self._routers = 0

    @property
    def over(self) -> bool:
        return bool(self.endings) or self.left

    def begin(self) -> None:
        self._connect()

    def _connect(self) -> None:
        if self.over:
            return
        names = sorted(self._world.routers)
        router = self._world.routers[names[(self._number + self._routers) % len(names)]]
        self._routers += 1

        def serve(reply: Callable[[Stream | None], None]) -> None:
            if not router.holds:  # it is not ready, as a load balancer knows
                reply(None)
                return
            stream = self._world.streams.begin(self, router)
            stream.cuttable = False
            router.accept(stream)
            reply(stream)

        self._world.network.call(self, router, serve, self._connected, 1.0)

    def _connected(self, stream: Stream | None) -> None:
        if stream is None or not stream.open[0]:
            self.after(AGAIN_S, self._connect)
            return
        stream.receive[0] = lambda message: self._take(stream, message)
        stream.ended[0] = lambda why: self.after(AGAIN_S, self._connect)
        known, tag = len(self.ids), self._tag
        stream.send(0, Ask(f"request-{self._number}", self._prompt, self._number, self._max_tokens, known, tag))

    def _take(self, stream: Stream, message: Delivered | Ended) -> None:
        checks = self._world.checks
        if isinstance(message, Ended):
            self.endings.append(message.code or message.reason)
            checks.ended(self)
            stream.close(0)
            return
        checks.delivered(self, message.index, message.id)
        self.ids.append(message.id)
        self._tag = message.worker_tag
        if self._leaves_after and len(self.ids) >= self._leaves_after:
            self.left = True
            stream.close(0)
