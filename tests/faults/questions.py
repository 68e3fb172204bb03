"""The traffic's questions, with the right answers to them.

Those over gRPC are an engine's of this process; those over HTTP, whose texts are parsed and whose tokens may be bound
by grammars, come of a router of this process before such an engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from faults.asking import GrpcQuestion, HttpQuestion, Question
from faults.history import Oracle
from faults.reference import Reference, reference
from support.cluster_harness import prompt_of, sampling_of

from services.attention_worker.engine.sequence import Sampling
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
COUNTED: dict[str, Any] = {"stream_options": {"include_usage": True}}  # of the APIs that do not say it of themselves
CHAT: dict[str, Any] = COUNTED | {
    "messages": [{"role": "user", "content": PROMPT}],
    "max_tokens": TOKENS,
    "temperature": 1.0,
}
SAMPLED: dict[str, Any] = {"temperature": 0.8, "seed": 77, "ignore_eos": True, "return_token_ids": True} | COUNTED
COMPLETIONS: dict[str, Any] = {"prompt": PROMPT, "n": CHOICES, "max_tokens": TOKENS, "logprobs": 1} | SAMPLED
OVER_HTTP: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", COMPLETIONS | {"priority": -1}),
    (
        "/v1/chat/completions",
        CHAT | SAMPLED | {"n": CHOICES, "logprobs": True, "top_logprobs": 2, "priority": 2},
    ),
    (
        "/v1/chat/completions",
        CHAT | {"seed": 5, "tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "weather"}}},
    ),
    ("/v1/chat/completions", CHAT | {"seed": 6, "tools": TOOLS, "tool_choice": "auto", "return_token_ids": True}),
    ("/v1/responses", {"input": PROMPT, "store": False, "max_output_tokens": TOKENS, "temperature": 0.0}),
    ("/v1/messages", {"messages": CHAT["messages"], "max_tokens": TOKENS, "temperature": 0.0}),
]


def questions(model: Path) -> list[Question]:
    """Greedy and sampled ones, of all kinds; the first ones over gRPC."""
    with reference(model) as right:
        asked: list[Question] = list(_over_grpc(right))
        choices = _completions(right)
        for path, body in OVER_HTTP:
            oracles = right.answers(path, body)
            if path == "/v1/completions":
                assert [list(oracle.ids) for oracle in oracles] == choices
            goes_on = body.get("n", 1) > 1  # these alone are also asked of the router that may be killed
            asked.append(HttpQuestion(path, body | {"model": model.name}, oracles, goes_on))
    return asked


def _over_grpc(right: Reference) -> Iterator[GrpcQuestion]:
    engine = right.engine()
    prompts = [right.tokenize(prompt_of(caller)) for caller in range(CALLERS)]
    received = [engine.submit(prompt, _sampling(caller)) for caller, prompt in enumerate(prompts)]
    engine.finish()
    for caller, one in enumerate(received):
        checksums = [token.logits_checksum for token in one.tokens]
        oracle = Oracle(one.ids, checksums, end=one.endings[0].reason, counts=(len(one.prompt), len(one.ids)))
        yield GrpcQuestion(prompt_of(caller), sampling_of(caller, TOKENS), oracle, PRIORITIES[caller])


def _completions(right: Reference) -> list[list[int]]:
    """The ids of the choices of COMPLETIONS, by the engine alone."""
    engine, prompt, seed = right.engine(), right.tokenize(PROMPT), SAMPLED["seed"]
    received = [
        engine.submit(
            prompt,
            Sampling(
                max_tokens=TOKENS, ignore_eos=True, temperature=SAMPLED["temperature"], seed=choice_seed(seed, number)
            ),
        )
        for number in range(CHOICES)
    ]
    engine.finish()
    return [one.ids for one in received]


def _sampling(caller: int) -> Sampling:
    wanted = sampling_of(caller, TOKENS)
    return Sampling(max_tokens=TOKENS, ignore_eos=True, temperature=wanted.temperature, seed=wanted.seed)
