"""Loads on clusters of this machine: those that factors are fitted on, and others that they are tested on."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench.checkpoints import CONFIGS, MODELS, console, make
from bench.cluster_settings import ClusterSettings
from bench.contenders import NEW_TOKENS, PROMPT_TOKENS, load, prompts
from bench.processes import cluster
from bench.whole_cluster import wait_for_workers
from services.checkpoint.reader import Checkpoint
from services.cli.plan import Sizes
from services.cli.planning.models import shape_of
from services.planner.one_machine import Point

STREAMS = (1, 8, 32)


@dataclass(frozen=True)
class Model:
    """A config of bench/config with some fields changed, and the clusters that are measured with it."""

    name: str
    config: str
    workers: tuple[int, ...] = (1,)
    streams: tuple[int, ...] = STREAMS
    changes: dict[str, int] = field(default_factory=dict)

    def checkpoint(self) -> Checkpoint:
        """Random weights, written once."""
        config = MODELS / f"planner-{self.name}.json"
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(json.dumps(json.loads((CONFIGS / f"{self.config}.json").read_text()) | self.changes))
        return make(config, MODELS / f"planner-{self.name}")


def layers_and_experts(layers: int, experts: int) -> dict[str, int]:
    return {
        "num_layers": layers,
        "num_hidden_layers": 2 * layers,
        "n_routed_experts": experts,
        "zero_expert_num": experts // 2,
    }


NARROW = Model("narrow", "bench-sweep", workers=(1, 3), changes=layers_and_experts(4, 64))
DEEP = Model("deep", "bench-sweep", changes=layers_and_experts(14, 256))
WIDE = Model("wide", "bench-90m", changes={"hidden_size": 384, "ffn_hidden_size": 1536, "expert_ffn_hidden_size": 192,
                                           **layers_and_experts(3, 48)})  # fmt: skip
CALIBRATION = (NARROW, DEEP, WIDE)
VALIDATION = (
    Model("bench-90m", "bench-90m", workers=(1, 2, 4)),
    Model("real", "bench-sweep", workers=(1, 2, 4), changes=layers_and_experts(28, 512)),
)


@dataclass(frozen=True, slots=True)
class Measured:
    """A point, and the median seconds between two tokens of a stream at the HTTP client."""

    model: str
    point: Point
    seconds: float
    turns: list[float]


def short(models: Sequence[Model]) -> list[Model]:
    """The first model once with few streams, to see that everything works."""
    return [Model(one.name, one.config, one.workers[:1], (1, 2), one.changes) for one in models[:1]]


def measure(models: Sequence[Model], directory: Path, rounds: int) -> list[Measured]:
    """Starts one cluster after another, as `caracal up` would, and loads each with every number of streams in turn."""
    found = []
    for model in models:
        checkpoint = model.checkpoint()
        shape = shape_of(checkpoint.config, Sizes.of(model.name, checkpoint.config))
        for workers in model.workers:
            console.print(f"{model.name} with {workers} expert worker{'s' * (workers > 1)}")
            seconds: dict[int, list[float]] = {streams: [] for streams in model.streams}
            with ExitStack() as stack:
                folder = directory / f"{model.name}-{workers}"
                replicas = ClusterSettings.of(checkpoint.path, workers).replicas
                target = stack.enter_context(cluster(checkpoint.path, folder, experts=workers))
                wait_for_workers(target, 1, workers)
                for turn in range(rounds + 1):  # the first one warms up
                    for streams in model.streams:
                        batch = prompts(streams, checkpoint.config.vocab_size)
                        took = load(target, batch).inter_token_seconds
                        seconds[streams] += [took] if turn else []
            for streams, turns in seconds.items():
                point = Point(shape, streams, workers, PROMPT_TOKENS + NEW_TOKENS / 2, replicas)
                found.append(Measured(model.name, point, statistics.median(turns), turns))
    return found
