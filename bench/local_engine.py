"""The baseline of the distribution tax: the engine with local links in one process.

`python -m bench.local_engine MODEL THREADS`: the engine's thread and that of the experts compute with so many each.
Reads lines of `{"prompts": [[id, ...], ...], "new_tokens": n}`; answers
`{"tokens": n, "seconds": s, "inter_token_s": s}`.
"""

import json
import sys
import threading
import time
from pathlib import Path

import torch
from caracal_proto import placement_pb2
from caracal_proto.placements import layer_of

from services.attention_worker.engine.engine import Engine, EngineLimits
from services.attention_worker.engine.sequence import Ending, Request, Sampling, TokenOut
from services.attention_worker.model.model import load_model
from services.attention_worker.settings import CPU_BATCH_TOKENS
from services.checkpoint.reader import Checkpoint
from services.expert_worker.experts import Experts
from services.local.in_process_link import LocalLink
from services.router.dispatch.moe_dispatcher import MoEDispatcher


class TokenTimes:
    """A sequence's callback, which records the time of every token."""

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
    dispatcher = MoEDispatcher(lambda _: LocalLink(experts), config)
    everywhere = layer_of([[0]] * config.n_routed_experts)
    here = placement_pb2.Endpoint(worker_id="local", address="local", boot_id="local")
    dispatcher.apply(placement_pb2.Table(epoch=1, workers=[here], layers=[everywhere] * config.num_layers))
    limits = EngineLimits(
        num_pages=512,
        page_size=64,
        max_batch_tokens=CPU_BATCH_TOKENS,
        max_running=64,
        max_model_len=2048,
        prefix_cache=False,
    )
    return Engine(load_model(checkpoint, dtype, lambda done, total: None), dispatcher, limits, frozenset())


def measure(engine: Engine, prompts: list[list[int]], new_tokens: int) -> dict[str, float]:
    sampling = Sampling(max_tokens=new_tokens, ignore_eos=True)
    streams = [TokenTimes() for _ in prompts]
    start = time.perf_counter()
    for prompt, stream in zip(prompts, streams, strict=True):
        engine.submit(Request(request_id="bench", prompt_ids=tuple(prompt), sampling=sampling), stream)
    for stream in streams:
        stream.ended.wait()
    seconds = time.perf_counter() - start
    between = sum(s.times[-1] - s.times[0] for s in streams) / sum(len(s.times) - 1 for s in streams)
    return {"tokens": len(prompts) * new_tokens, "seconds": seconds, "inter_token_s": between}


def run(engine: Engine, threads: int) -> None:
    torch.set_num_threads(threads)  # OpenMP keeps this number per thread
    engine.run()


def main() -> None:
    threads = int(sys.argv[2])
    torch.set_num_threads(threads)
    engine = build(Path(sys.argv[1]))
    threading.Thread(target=run, args=(engine, threads), daemon=True).start()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        print(json.dumps(measure(engine, job["prompts"], job["new_tokens"])), flush=True)


if __name__ == "__main__":
    main()
