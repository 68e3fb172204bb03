"""From a request's fields to the Sampling message that workers read."""

from __future__ import annotations

import hashlib
import secrets

from caracal_proto import attention_pb2

from services.router.gateway.schemas import ChatRequest, CompletionRequest, Sampled
from services.router.requests.errors import InvalidRequest

SEED_MASK = 2**63 - 1  # workers hold seeds as signed 64-bit integers


def draw_seed() -> int:
    """A seed for a request that has none, so that its replay samples the same tokens."""
    return secrets.randbits(63)


def choice_seed(seed: int, choice: int) -> int:
    """The seed of the i-th choice: the request's own for the first, a hash of both for the others."""
    if choice == 0:
        return seed & SEED_MASK
    digest = hashlib.blake2b(f"{seed & SEED_MASK}:{choice}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") & SEED_MASK


def sampling_of(request: Sampled, seed: int, max_tokens: int, vocab_size: int) -> attention_pb2.Sampling:
    """The Sampling message. Raises InvalidRequest for ids outside the vocabulary."""
    min_tokens = request.min_tokens or 0
    if min_tokens > max_tokens:
        raise InvalidRequest(f"min_tokens must be at most max_tokens, which is {max_tokens} here.", param="min_tokens")
    top_k = request.top_k or 0
    return attention_pb2.Sampling(
        temperature=_or(request.temperature, 1.0),
        top_k=0 if top_k < 1 else top_k,
        top_p=_or(request.top_p, 1.0),
        min_p=_or(request.min_p, 0.0),
        seed=seed,
        presence_penalty=_or(request.presence_penalty, 0.0),
        frequency_penalty=_or(request.frequency_penalty, 0.0),
        repetition_penalty=_or(request.repetition_penalty, 1.0),
        logit_bias=_logit_bias(request, vocab_size),
        stop_ids=_stop_ids(request, vocab_size),
        ignore_eos=bool(request.ignore_eos),
        min_tokens=min_tokens,
        max_tokens=max_tokens,
        logprobs=wants_logprobs(request),
        top_logprobs=top_logprobs(request),
    )


def wants_logprobs(request: Sampled) -> bool:
    if isinstance(request, ChatRequest):
        return bool(request.logprobs)
    return isinstance(request, CompletionRequest) and request.logprobs is not None


def top_logprobs(request: Sampled) -> int:
    """How many alternatives per token."""
    if isinstance(request, ChatRequest):
        if request.top_logprobs and not request.logprobs:
            raise InvalidRequest("top_logprobs needs logprobs to be true.", param="top_logprobs")
        return request.top_logprobs or 0
    return (request.logprobs or 0) if isinstance(request, CompletionRequest) else 0


def _or(value: float | None, default: float) -> float:
    return default if value is None else float(value)


def _stop_ids(request: Sampled, vocab_size: int) -> list[int]:
    ids = sorted(set(request.stop_token_ids or []))
    if ids and ids[-1] >= vocab_size:
        raise InvalidRequest(
            f"stop_token_ids must be below {vocab_size}.", param="stop_token_ids", code="value_out_of_range"
        )
    return ids


def _logit_bias(request: Sampled, vocab_size: int) -> dict[int, float]:
    bias: dict[int, float] = {}
    for key, value in (request.logit_bias or {}).items():
        if not (key.isascii() and key.isdigit() and len(key) < 10 and int(key) < vocab_size):
            raise InvalidRequest(
                f"logit_bias: keys must be token ids below {vocab_size}.", param="logit_bias", code="value_out_of_range"
            )
        bias[int(key)] = float(value)
    return bias
