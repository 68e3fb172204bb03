"""The traffic's questions, with the right answers to them.

Those over gRPC, and the ids of completions over HTTP, are compared with an engine in this process. The other answers
over HTTP, whose texts are parsed and whose tokens may be bound by grammars, are compared with what the cluster itself
gives while nothing is wrong with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from caracal_proto.placement_pb2 import Endpoint, Table
from caracal_proto.placements import layer_of
from faults.asking import GrpcQuestion, HttpQuestion, Question, Reading
from faults.cluster import FaultyCluster
from faults.history import Oracle, Recorded
from support.cluster_harness import prompt_of, sampling_of
from support.engine_driver import Driver, Received, limits

from services.attention_worker.engine.sequence import Sampling
from services.attention_worker.model.model import load_model
from services.checkpoint.reader import Checkpoint
from services.expert_worker.experts import Experts
from services.local.in_process_link import LocalLink
from services.router.dispatch.moe_dispatcher import MoEDispatcher
from services.router.gateway.sampling import choice_seed

TOKENS = 60
CALLERS = 5  # over gRPC
PRIORITIES = (0, 3, -2, 0, 1)  # of theirs
CHOICES = 2
PROMPT = "the cat sat"
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "São Paulo"]}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": WEATHER}}]
CHAT = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": TOKENS, "temperature": 1.0}
SAMPLED: dict[str, Any] = {"temperature": 0.8, "seed": 77, "ignore_eos": True, "return_token_ids": True}
COMPLETIONS: dict[str, Any] = {"prompt": PROMPT, "n": CHOICES, "max_tokens": TOKENS, "logprobs": 1} | SAMPLED
OVER_HTTP: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", COMPLETIONS | {"priority": -1}),
    ("/v1/chat/completions", CHAT | SAMPLED | {"n": CHOICES, "logprobs": True, "top_logprobs": 2, "priority": 2}),
    (
        "/v1/chat/completions",
        CHAT | {"seed": 5, "tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "weather"}}},
    ),
    ("/v1/chat/completions", CHAT | {"seed": 6, "tools": TOOLS, "tool_choice": "auto", "return_token_ids": True}),
    ("/v1/responses", {"input": PROMPT, "store": False, "max_output_tokens": TOKENS, "temperature": 0.0}),
    ("/v1/messages", {"messages": CHAT["messages"], "max_tokens": TOKENS, "temperature": 0.0}),
]


def questions(model: Path, cluster: FaultyCluster) -> list[Question]:
    """Greedy and sampled ones, of all kinds; the first ones over gRPC. The cluster is well."""
    engine = driver(model)
    received = [engine.submit(cluster.tokenize(prompt_of(caller)), _sampling(caller)) for caller in range(CALLERS)]
    prompt, seed = cluster.tokenize(PROMPT), SAMPLED["seed"]
    choices = [
        engine.submit(
            prompt,
            Sampling(
                max_tokens=TOKENS, ignore_eos=True, temperature=SAMPLED["temperature"], seed=choice_seed(seed, number)
            ),
        )
        for number in range(CHOICES)
    ]
    engine.finish()
    asked: list[Question] = [
        GrpcQuestion(prompt_of(caller), sampling_of(caller, TOKENS), _checksums(one), PRIORITIES[caller])
        for caller, one in enumerate(received)
    ]
    for path, body in OVER_HTTP:
        oracles = calm_answer(cluster, path, body | {"model": model.name})
        if path == "/v1/completions":
            oracles = [replace(oracle, ids=one.ids) for oracle, one in zip(oracles, choices, strict=True)]
        goes_on = body.get("n", 1) > 1  # these alone are also asked of the router that may be killed
        asked.append(HttpQuestion(path, body | {"model": model.name}, oracles, goes_on))
    return asked


def calm_answer(cluster: FaultyCluster, path: str, body: dict[str, Any]) -> Sequence[Oracle]:
    """What the cluster answers while nothing is wrong with it."""
    choices = [Recorded() for _ in range(body.get("n", 1))]
    Reading(path, body, choices).read(cluster.door("router-0").http)
    return [choice.oracle() for choice in choices]


def driver(model: Path) -> Driver:
    """An engine in this process, which has all experts and drafts nothing."""
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
    return Driver(loaded, dispatcher, limits(num_pages=256, max_len=512))


def _sampling(caller: int) -> Sampling:
    wanted = sampling_of(caller, TOKENS)
    return Sampling(max_tokens=TOKENS, ignore_eos=True, temperature=wanted.temperature, seed=wanted.seed)


def _checksums(one: Received) -> Oracle:
    return Oracle(one.ids, [token.logits_checksum for token in one.tokens])
