"""The traffic's questions, with the answers that one process gives to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from caracal_proto.placement_pb2 import Endpoint, Table
from caracal_proto.placements import layer_of
from faults.history import Oracle
from faults.traffic import Question
from support.cluster_harness import CALLERS, prompt_of, sampling_of
from support.engine_driver import Driver, limits

from services.attention_worker.engine.sequence import Sampling
from services.attention_worker.model.model import load_model
from services.checkpoint.reader import Checkpoint
from services.expert_worker.experts import Experts
from services.local.in_process_link import LocalLink
from services.router.dispatch.moe_dispatcher import MoEDispatcher

TOKENS = 60


def questions(model: Path, tokenize: Callable[[str], list[int]]) -> list[Question]:
    """Greedy and sampled ones. Their oracle is an engine in this process, which has all experts and drafts nothing."""
    checkpoint = Checkpoint.open(model)
    layers, count = checkpoint.config.num_layers, checkpoint.config.n_routed_experts
    experts = Experts(checkpoint, torch.float32)
    for layer in range(layers):
        for expert in range(count):
            experts.load(layer, expert)
    dispatcher = MoEDispatcher(lambda _: LocalLink(experts), checkpoint.config)
    here = Endpoint(worker_id="local", address="local", boot_id="local")
    dispatcher.apply(Table(epoch=1, workers=[here], layers=[layer_of([[0]] * count)] * layers))
    loaded = load_model(checkpoint, torch.float32, lambda done, total: None)
    driver = Driver(loaded, dispatcher, limits(num_pages=256, max_len=512))
    received = []
    for caller in range(CALLERS):
        wanted = sampling_of(caller, TOKENS)
        sampling = Sampling(max_tokens=TOKENS, ignore_eos=True, temperature=wanted.temperature, seed=wanted.seed)
        received.append(driver.submit(tokenize(prompt_of(caller)), sampling))
    driver.finish()
    return [
        Question(
            prompt_of(caller),
            sampling_of(caller, TOKENS),
            Oracle(one.ids, [token.logits_checksum for token in one.tokens]),
        )
        for caller, one in enumerate(received)
    ]
