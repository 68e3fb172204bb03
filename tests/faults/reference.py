"""The right answers: a router and an engine that has all experts and drafts nothing, in this process."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from caracal_proto.placement_pb2 import Endpoint, Table
from caracal_proto.placements import layer_of
from faults.asking import Reading
from faults.history import Oracle, Recorded
from support.attention_service import Worker
from support.engine_attention import EngineAttention
from support.engine_driver import Driver, limits
from support.gateway_harness import MODEL, Harness

from services.attention_worker.engine.engine import ModelLike
from services.attention_worker.model.interfaces import DispatcherLike
from services.attention_worker.model.model import load_model
from services.checkpoint.reader import Checkpoint
from services.expert_worker.experts import Experts
from services.local.in_process_link import LocalLink
from services.router.dispatch.moe_dispatcher import MoEDispatcher

SIZES = limits(num_pages=256, max_len=512)


class WholeModel(EngineAttention):
    """An attention worker of this process, with the checkpoint's own weights."""

    def __init__(self, model: Path, parts: tuple[ModelLike, DispatcherLike]) -> None:
        super().__init__(model)
        self._model, self._parts = model, parts

    async def start(self, port: int = 0) -> None:
        config = Checkpoint.open(self._model).config
        self.worker = Worker(SIZES, self._model, config.vocab_size, config.eos_ids, self._parts)
        await self.worker.start()


class Reference:
    """What answers should be."""

    def __init__(self, router: Harness, parts: tuple[ModelLike, DispatcherLike]) -> None:
        self._address, self._router, self._parts = ("127.0.0.1", router.servers.http_port), router, parts

    def engine(self) -> Driver:
        """A new engine, for one use."""
        model, dispatcher = self._parts
        return Driver(model, dispatcher, SIZES)

    def tokenize(self, prompt: str) -> list[int]:
        body = json.dumps({"prompt": prompt}).encode()
        request = urllib.request.Request(self._router.url + "/tokenize", body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            ids: list[int] = json.load(answer)["tokens"]
            return ids

    def answers(self, path: str, body: dict[str, Any]) -> Sequence[Oracle]:
        """All choices of a question over HTTP."""
        choices = [Recorded() for _ in range(body.get("n", 1))]
        Reading(path, body | {"model": MODEL}, choices).read(self._address)
        return [choice.oracle() for choice in choices]


@contextmanager
def reference(model: Path) -> Iterator[Reference]:
    parts = _parts(model)
    with Harness(model, WholeModel(model, parts)) as router:
        yield Reference(router, parts)


def _parts(model: Path) -> tuple[ModelLike, DispatcherLike]:
    checkpoint = Checkpoint.open(model)
    layers, count = checkpoint.config.num_layers, checkpoint.config.n_routed_experts
    experts = Experts(checkpoint, torch.float32)
    for layer in range(layers):
        for expert in range(count):
            experts.load(layer, expert)
    dispatcher = MoEDispatcher(lambda _: LocalLink(experts), checkpoint.config)
    here = Endpoint(worker_id="local", address="local", boot_id="local")
    dispatcher.apply(Table(epoch=1, workers=[here], layers=[layer_of([[0]] * count)] * layers))
    return load_model(checkpoint, torch.float32, lambda done, total: None), dispatcher
