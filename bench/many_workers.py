"""`python -m bench.many_workers [--out FILE]`: what many expert workers cost a step, 28 layers deep.

Two engines in this process share a model's weights, each with native sessions to so many expert workers. One real
expert worker's process plays them all and holds every expert once: both compute the same, only the number of sessions
differs. What 64 machines would do at once, its one thread does in turn, which counts against the many. The engines take
turns in every round; figures are medians.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import psutil
import structlog
import torch
from caracal_proto.placement_pb2 import Table

from bench import arguments, documents
from bench.checkpoints import CONFIGS, MODELS, console, make
from bench.compiled import CannotMeasure
from bench.contenders import prompts
from bench.decode_load import ANSWER_S, Load, Sums, Turn
from bench.expert_process import expert_process
from bench.main import RESULTS
from bench.report import machine
from bench.row import goal_of
from services.attention_worker.engine.engine import Engine, EngineLimits
from services.attention_worker.engine.sequence import Ending, Request, Sampling, TokenOut
from services.attention_worker.model.model import Model, load_model
from services.attention_worker.settings import CPU_BATCH_TOKENS, AttentionSettings
from services.checkpoint.config import ModelConfig
from services.checkpoint.reader import Checkpoint
from services.local.cores import cores_of
from services.process.cores import own_cores, run_on
from services.router.dispatch.moe_dispatcher import MoEDispatcher
from services.router.dispatch.native_fanout import NativeFanout, NativeOptions
from services.router.dispatch.native_link import NativeStats
from services.transport.spinning import spin_s, usable_cores

NAME = "many_workers.json"
GOAL = "≤ 1.10"
OPEN_S = 30.0
PAGE_SIZE, PAGES = 64, 4  # of a sequence


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured: a config of bench/config made deeper, with one FFN expert a layer for each of the `workers`."""

    config: str = "bench-90m"
    layers: int = 28
    workers: tuple[int, int] = (4, 64)
    streams: int = 32
    new_tokens: int = 32
    rounds: int = 9

    @property
    def overrides(self) -> dict[str, int]:
        """What the model's config.json has instead; half as many zero experts as FFN experts, as in LongCat-Flash."""
        experts = self.workers[1]
        return {
            "num_layers": self.layers,
            "num_hidden_layers": 2 * self.layers,
            "n_routed_experts": experts,
            "zero_expert_num": experts // 2,
        }


SMOKE = Plan(config="bench-tiny", layers=3, workers=(2, 8), streams=4, new_tokens=8, rounds=1)


class Played(Protocol):
    """Who plays the expert workers: the process whose CPU time counts, and the first table."""

    @property
    def pid(self) -> int: ...

    def table(self, config: ModelConfig, sessions: int, /) -> Table: ...


class Contender:
    """An engine over so many expert workers."""

    def __init__(
        self,
        model: Model,
        played: Played,
        workers: int,
        streams: int,
        cores: frozenset[int],
        pages: int = PAGES,
    ) -> None:
        """`pages`: of each stream."""
        dtype = model.dtype
        self.workers = workers
        self.turns: list[Turn] = []
        self._native = NativeStats()
        spin = spin_s(AttentionSettings.spin_us, usable_cores(cores))
        fanout = NativeFanout(NativeOptions(dtype, dtype, self._native, spin_s=spin))
        self._dispatcher = MoEDispatcher(fanout, model.config)
        self._dispatcher.apply(played.table(model.config, workers))
        limits = EngineLimits(
            num_pages=pages * streams,
            page_size=PAGE_SIZE,
            max_batch_tokens=CPU_BATCH_TOKENS,
            max_running=streams,
            max_model_len=pages * PAGE_SIZE,
            prefix_cache=False,
        )
        self._engine = Engine(model, self._dispatcher, limits, frozenset())
        self._expert = psutil.Process(played.pid)
        self._thread = threading.Thread(target=self._run, args=(cores,), name=f"engine-{workers}", daemon=True)
        self._thread.start()

    def open(self, batch: Sequence[list[int]]) -> None:
        """Runs short loads until every session is open, over which the layers then run without Python.

        Raises CannotMeasure.
        """
        deadline = time.monotonic() + OPEN_S
        while self._native.opened < self.workers:
            if time.monotonic() > deadline:
                raise CannotMeasure(f"only {self._native.opened} of {self.workers} sessions were opened")
            self._load(batch, 2).result()
        self._load(batch, 2).result()  # the last one opened may not have been looked at yet

    def turn(self, batch: Sequence[list[int]], new_tokens: int) -> object:
        """Measures one load; returns its answers. Raises CannotMeasure when one failed, or Python ran a layer."""
        before = self._by_python
        load = self._load(batch, new_tokens)
        turn = load.result()
        if self._by_python != before:
            raise CannotMeasure(f"with {self.workers} expert workers Python ran some of the layers")
        self.turns.append(turn)
        return load.answers

    def submit(self, prompt: list[int], new_tokens: int, emit: Callable[[list[TokenOut], Ending | None], None]) -> None:
        """Starts one stream; `emit` is called after each of its steps."""
        sampling = Sampling(max_tokens=new_tokens, ignore_eos=True)
        self._engine.submit(Request(request_id="bench", prompt_ids=tuple(prompt), sampling=sampling), emit)

    def apply(self, table: Table) -> None:
        """Makes a table the engine's, as a leader's push does."""
        self._dispatcher.apply(table)

    def median(self) -> Turn:
        """The median of each figure over the turns."""
        return Turn(*(statistics.median(getattr(turn, f.name) for turn in self.turns) for f in fields(Turn)))

    def close(self) -> None:
        self._engine.stop()
        self._thread.join(ANSWER_S)  # a step that waits for experts ends with them
        self._dispatcher.close()

    @property
    def _by_python(self) -> int:
        return sum(layer.layer_calls for layer in self._dispatcher.stats.counted)

    def _load(self, batch: Sequence[list[int]], new_tokens: int) -> Load:
        load = Load(len(batch), self._sums)
        for prompt in batch:
            self.submit(prompt, new_tokens, load.stream())
        return load

    def _sums(self) -> Sums:
        total, cpu = self._dispatcher.stats.total(), self._expert.cpu_times()
        return Sums(
            time.perf_counter(),
            self._engine.counters.steps,
            total.exposed_s,
            total.messages_sent,
            time.process_time(),
            cpu.user + cpu.system,
        )

    def _run(self, cores: frozenset[int]) -> None:
        run_on(cores)
        torch.set_num_threads(len(cores))  # OpenMP keeps this number per thread
        self._engine.run()


def measure(plan: Plan, directory: Path) -> list[Contender]:
    """Runs all turns. Raises CannotMeasure."""
    checkpoint = checkpoint_of(plan)
    batch = prompts(plan.streams, checkpoint.config.vocab_size)
    cores = cores_of("attention", 1, 1, sorted(own_cores()))
    with ExitStack() as stack:
        played = stack.enter_context(expert_process(checkpoint, directory, sum(plan.workers)))
        model = load_model(checkpoint, torch.bfloat16, lambda done, total: None)
        contenders = []
        for workers in plan.workers:
            contenders.append(one := Contender(model, played, workers, plan.streams, cores))
            stack.callback(one.close)
            one.open(batch)
        for number in range(plan.rounds):
            answers = [one.turn(batch, plan.new_tokens) for one in contenders[:: -1 if number % 2 else 1]]
            if answers[0] != answers[1]:
                raise CannotMeasure("the answers differ with the number of expert workers")
    return contenders


def checkpoint_of(plan: Plan) -> Checkpoint:
    """The plan's model, written once."""
    name = f"{plan.config}-{plan.layers}-{plan.workers[1]}"
    config = MODELS / f"{name}.json"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(json.dumps(json.loads((CONFIGS / f"{plan.config}.json").read_text()) | plan.overrides))
    return make(config, MODELS / name)


def ratio_and_costs(few: Turn, many: Turn) -> dict[str, Any]:
    """The ratio of the step times, and what each of the messages costs that the many have more."""
    more = many.messages - few.messages
    ratio = many.step_ms / few.step_ms
    costs = ("own", "attention_cpu", "expert_cpu")
    spent = {name: getattr(many, f"{name}_ms") - getattr(few, f"{name}_ms") for name in costs}
    return {
        "ratio": ratio,
        "goal": GOAL,
        "met": goal_of(ratio, GOAL),
        "us_per_message": {name: 1e3 * ms / more for name, ms in spent.items()},
    }


def results(plan: Plan, contenders: Sequence[Contender]) -> dict[str, Any]:
    """What is written: the run, the ratio and the costs, each contender's medians and turns."""
    few, many = contenders
    return {
        "machine": machine(),
        "plan": asdict(plan),
        **ratio_and_costs(few.median(), many.median()),
        "workers": {
            str(one.workers): {"median": asdict(one.median()), "turns": [asdict(turn) for turn in one.turns]}
            for one in contenders
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.many_workers", description=__doc__)
    parser.add_argument("--rounds", type=arguments.number(1), default=Plan.rounds, help="interleaved; of them medians")
    parser.add_argument("--out", type=arguments.folder, help=f"where {NAME} goes: beside the other results")
    parser.add_argument("--smoke", action="store_true", help="once, on a tiny model; without --out nothing is written")
    given = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    plan = SMOKE if given.smoke else Plan(rounds=given.rounds)
    directory = Path(tempfile.mkdtemp(prefix="caracal-many-"))
    console.print(f"logs in {directory}")
    try:
        found = results(plan, measure(plan, directory))
    except CannotMeasure as error:
        sys.exit(str(error))
    print(documents.many_workers_text(found))
    out = given.out or (None if given.smoke else RESULTS)
    if out is None:
        return
    (out / NAME).write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    if out == RESULTS:
        documents.update()


if __name__ == "__main__":
    main()
