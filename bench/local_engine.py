"""The same engine with `local` links in one process, driven by JSON lines on stdin: the distribution tax's reference.

Reads `{"prompts": [[id, ...], ...], "new_tokens": n}`, answers `{"inter_token_s": s, "tokens_per_s": r}`.
"""

import json
import sys
import threading
import time
from pathlib import Path

import torch
from caracal_proto import placement_pb2

from services.attention_worker.engine.engine import Engine, EngineLimits
from services.attention_worker.engine.sequence import Ending, Request, Sampling, TokenOut
from services.attention_worker.model.model import load_model
from services.checkpoint.reader import Checkpoint
from services.expert_worker.experts import Experts
from services.local.in_process_link import LocalLink
from services.router.dispatch.moe_dispatcher import MoEDispatcher


class Arrivals:
    """When the tokens of one sequence came."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.ended = threading.Event()

    def __call__(self, tokens: list[TokenOut], ending: Ending | None) -> None:
        self.times += [time.perf_counter()] * len(tokens)
        if ending:
            self.ended.set()


def build(directory: Path) -> Engine:
    checkpoint = Checkpoint.open(directory)
    config, dtype = checkpoint.config, torch.bfloat16
    experts = Experts(checkpoint, dtype)
    for layer in range(config.num_layers):
        for expert in range(config.n_routed_experts):
            experts.load(layer, expert)
    exchange = MoEDispatcher(lambda _: LocalLink(experts), config)
    everywhere = placement_pb2.LayerPlacement(experts=[placement_pb2.Replicas(worker=[0])] * config.n_routed_experts)
    here = placement_pb2.Endpoint(worker_id="local", address="local", boot_id="local")
    exchange.apply(placement_pb2.Table(epoch=1, workers=[here], layers=[everywhere] * config.num_layers))
    limits = EngineLimits(num_pages=512, page_size=64, max_batch_tokens=512, max_running=64, max_model_len=2048)
    return Engine(load_model(checkpoint, dtype, lambda done, total: None), exchange, limits, frozenset())


def measure(engine: Engine, prompts: list[list[int]], new_tokens: int) -> dict[str, float]:
    sampling = Sampling(max_tokens=new_tokens, ignore_eos=True)
    arrivals = [Arrivals() for _ in prompts]
    start = time.perf_counter()
    for prompt, arrival in zip(prompts, arrivals, strict=True):
        engine.submit(Request(request_id="bench", prompt_ids=tuple(prompt), sampling=sampling), arrival)
    for arrival in arrivals:
        arrival.ended.wait()
    seconds = time.perf_counter() - start
    between = sum(a.times[-1] - a.times[0] for a in arrivals) / sum(len(a.times) - 1 for a in arrivals)
    return {"inter_token_s": between, "tokens_per_s": len(prompts) * new_tokens / seconds}


def main() -> None:
    torch.set_num_threads(1)
    engine = build(Path(sys.argv[1]))
    threading.Thread(target=engine.run, daemon=True).start()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        print(json.dumps(measure(engine, job["prompts"], job["new_tokens"])), flush=True)


if __name__ == "__main__":
    main()
