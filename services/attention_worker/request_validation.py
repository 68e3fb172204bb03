"""Validates a GenerateRequest and turns it into a Request. Nothing after this checks the fields again."""

from __future__ import annotations

import math
from collections.abc import Iterable
from types import MappingProxyType

from caracal_proto import attention_pb2

from services.attention_worker.engine.sequence import Request, Sampling
from services.attention_worker.engine.token_rules import Reasoning
from services.prefixes.page_names import MAX_SALT_BYTES

MAX_TOP_LOGPROBS = 64
MAX_ADDRESS = 300  # characters of a host and port
MAX_KEY_BYTES = 64
MIN_WEIGHT, MAX_WEIGHT = 1e-3, 1e6


class BadRequest(ValueError):
    """The request is invalid; the message begins with the field's name."""


def parse(message: attention_pb2.GenerateRequest, vocab_size: int, max_model_len: int) -> Request:
    """The engine's request for a message. Raises BadRequest."""
    prompt, emitted = tuple(message.prompt_ids), tuple(message.emitted_ids)
    _require(len(prompt) > 0, "prompt_ids", "is empty")
    _check_ids("prompt_ids", prompt, vocab_size)
    _check_ids("emitted_ids", emitted, vocab_size)
    _require(
        len(prompt) < max_model_len,
        "prompt_ids",
        f"has {len(prompt)} tokens, which leaves none to generate within the model length of {max_model_len}",
    )
    _require(
        len(prompt) + len(emitted) <= max_model_len,
        "emitted_ids",
        f"has {len(emitted)} tokens after a prompt of {len(prompt)}, the model length is {max_model_len}",
    )
    sampling = _sampling(message.sampling, vocab_size)
    salt = len(message.cache_salt)
    _require(salt <= MAX_SALT_BYTES, "cache_salt", f"has {salt} bytes, it may have {MAX_SALT_BYTES}")
    key = len(message.resume_key)
    _require(key <= MAX_KEY_BYTES, "resume_key", f"has {key} bytes, it may have {MAX_KEY_BYTES}")
    _require(len(message.pages_at.address) <= MAX_ADDRESS, "pages_at", f"is longer than {MAX_ADDRESS} characters")
    _require(message.scored <= len(prompt), "scored", f"is {message.scored}, the prompt has {len(prompt)} tokens")
    _within("weight", message.weight, 0.0, MAX_WEIGHT)
    _require(not (sampling.prompt_only and emitted), "emitted_ids", "is not empty, but the answer has no tokens")
    return Request(
        request_id=message.request_id,
        prompt_ids=prompt,
        emitted_ids=emitted,
        scored=message.scored,
        sampling=sampling,
        probe=message.probe,
        caller=message.caller,
        weight=max(message.weight, MIN_WEIGHT) if message.weight else 1.0,
        priority=message.priority,
        salt=message.cache_salt,
        layer_checksums=message.layer_checksums,
    )


def _sampling(asked: attention_pb2.Sampling, vocab_size: int) -> Sampling:
    _check_ids("sampling.stop_ids", asked.stop_ids, vocab_size)
    _check_ids("sampling.logit_bias", asked.logit_bias, vocab_size)
    for token, bias in asked.logit_bias.items():
        _within(f"sampling.logit_bias[{token}]", bias, -100.0, 100.0)
    _within("sampling.temperature", asked.temperature, 0.0, 100.0)
    _within("sampling.top_p", asked.top_p, 0.0, 1.0)
    _within("sampling.min_p", asked.min_p, 0.0, 1.0)
    _within("sampling.presence_penalty", asked.presence_penalty, -2.0, 2.0)
    _within("sampling.frequency_penalty", asked.frequency_penalty, -2.0, 2.0)
    _within("sampling.repetition_penalty", asked.repetition_penalty, 0.0, 100.0)
    for field in ("top_logprobs", "prompt_logprobs"):
        _within(f"sampling.{field}", getattr(asked, field), 0, min(MAX_TOP_LOGPROBS, vocab_size))
    _check_ids("sampling.allowed_ids", asked.allowed_ids, vocab_size)
    for ids in asked.banned:
        _require(len(ids.ids) > 0, "sampling.banned", "has a sequence without ids")
        _check_ids("sampling.banned", ids.ids, vocab_size)
    # Where a grammar is complete nothing but the end may follow.
    _require(not (asked.grammar and asked.min_tokens), "sampling.min_tokens", "cannot be combined with a grammar")
    _require(not (asked.grammar and asked.ignore_eos), "sampling.ignore_eos", "cannot be combined with a grammar")
    return Sampling(
        temperature=asked.temperature,
        top_k=min(asked.top_k, vocab_size),
        # An unset number of proto3 reads 0, and 0 would be useless for these two: it means off.
        top_p=asked.top_p or 1.0,
        repetition_penalty=asked.repetition_penalty or 1.0,
        min_p=asked.min_p,
        seed=asked.seed - 2**64 if asked.seed >= 2**63 else asked.seed,
        presence_penalty=asked.presence_penalty,
        frequency_penalty=asked.frequency_penalty,
        logit_bias=MappingProxyType(dict(asked.logit_bias)),
        stop_ids=frozenset(asked.stop_ids),
        ignore_eos=asked.ignore_eos,
        min_tokens=asked.min_tokens,
        max_tokens=asked.max_tokens,
        logprobs=asked.logprobs,
        top_logprobs=asked.top_logprobs,
        grammar=asked.grammar,
        allowed_ids=frozenset(asked.allowed_ids),
        banned=tuple(tuple(ids.ids) for ids in asked.banned),
        reasoning=_reasoning(asked.reasoning, vocab_size) if asked.HasField("reasoning") else None,
        prompt_logprobs=asked.prompt_logprobs if asked.HasField("prompt_logprobs") else None,
        prompt_only=asked.prompt_only,
    )


def _reasoning(asked: attention_pb2.Reasoning, vocab_size: int) -> Reasoning:
    _check_ids("sampling.reasoning", (asked.begin_id, asked.end_id), vocab_size)
    budget = asked.budget if asked.HasField("budget") else None
    return Reasoning(begin_id=asked.begin_id, end_id=asked.end_id, open=asked.open, budget=budget)


def _check_ids(field: str, ids: Iterable[int], vocab_size: int) -> None:
    worst = max(ids, default=0)
    _require(worst < vocab_size, field, f"has id {worst}, the vocabulary ends at {vocab_size - 1}")


def _within(field: str, value: float, low: float, high: float) -> None:
    _require(math.isfinite(value) and low <= value <= high, field, f"is {value}, it must lie in [{low}, {high}]")


def _require(holds: bool, field: str, message: str) -> None:
    if not holds:
        raise BadRequest(f"{field} {message}")
