"""Builds the Sampling message for workers from the fields of a request body."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass

from caracal_proto import attention_pb2

from services.router.gateway.output_tags import TOOL
from services.router.gateway.schemas import ChatRequest, CompletionRequest, Sampled
from services.router.requests.assets import ModelAssets
from services.router.requests.errors import InvalidRequest

ANY_SEED = -1  # vLLM's clients send it for no seed
MAX_SCORES = 1 << 19  # log-probabilities of prompts in an answer: half a million make some 30 MB of JSON
SEED_MASK = 2**63 - 1  # workers store seeds as signed 64-bit integers


def draw_seed() -> int:
    """Returns a random seed for a request without one, so that its replay samples the same tokens."""
    return secrets.randbits(63)


def page_salt(asked: str | None, key: str, secret: bytes = b"") -> bytes:
    """Returns what requests must have in common to share cached pages: their own `cache_salt`, else the `key`'s name.

    It is empty without keys. So how fast an answer comes tells nothing of what other keys have asked; and without the
    cluster's `secret`, if it has one, nobody can tell from a page's name what is in it.
    """
    if asked is None and not key and not secret:
        return b""
    kind, text = (b"key", key) if asked is None else (b"request", asked)
    data = text.encode(errors="surrogatepass")
    return hashlib.blake2b(data, digest_size=16, key=secret, person=kind).digest()


def choice_seed(seed: int, choice: int) -> int:
    """Returns the seed of the i-th choice: the request's own for the first, a hash of both for the others."""
    if choice == 0:
        return seed & SEED_MASK
    digest = hashlib.blake2b(f"{seed & SEED_MASK}:{choice}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") & SEED_MASK


@dataclass(frozen=True, slots=True)
class OutputRules:
    """Rules of the output beside sampling: a grammar, the field that it comes from, and where reasoning lies.

    `has_lines`: the field is the grammar, so that its lines are the client's.
    """

    grammar: str = ""
    field: str = ""
    has_lines: bool = False
    reasoning: attention_pb2.Reasoning | None = None


FREE = OutputRules()


def of_choice(base: attention_pb2.Sampling, seed: int, max_tokens: int) -> attention_pb2.Sampling:
    """Returns the message of one choice: a copy of that of its request, which costs little beside making one."""
    made = attention_pb2.Sampling()
    made.CopyFrom(base)
    made.seed, made.max_tokens, made.prompt_only = seed, max_tokens, max_tokens == 0
    return made


def sampling_of(
    body: Sampled, seed: int, max_tokens: int, assets: ModelAssets, rules: OutputRules = FREE
) -> attention_pb2.Sampling:
    """Returns a request's Sampling message: what it says, else what the model's generation_config.json says.

    Raises InvalidRequest for ids outside the vocabulary.
    """
    min_tokens = body.min_tokens or 0
    if min_tokens > max_tokens:
        raise InvalidRequest(f"min_tokens must be at most max_tokens, which is {max_tokens} here.", param="min_tokens")
    defaults, vocab_size = assets.generation.defaults, assets.vocab_size
    top_k = _first(body.top_k, defaults.top_k, 0)
    top_p = _first(body.top_p, defaults.top_p, 1.0)
    return attention_pb2.Sampling(
        temperature=_first(body.temperature, defaults.temperature, 1.0) if top_p else 0.0,
        top_k=0 if top_k < 1 else int(top_k),
        top_p=top_p or 1.0,  # of none but the likeliest token, greedy is what is left
        min_p=_first(body.min_p, defaults.min_p, 0.0),
        seed=seed,
        presence_penalty=_first(body.presence_penalty, 0.0),
        frequency_penalty=_first(body.frequency_penalty, 0.0),
        repetition_penalty=_first(body.repetition_penalty, defaults.repetition_penalty, 1.0),
        logit_bias=_logit_bias(body, vocab_size),
        stop_ids=_stop_ids(body, assets),
        ignore_eos=bool(body.ignore_eos),
        min_tokens=min_tokens,
        max_tokens=max_tokens,
        logprobs=wants_logprobs(body),
        top_logprobs=top_logprobs(body),
        grammar=rules.grammar,
        allowed_ids=_allowed_ids(body, vocab_size),
        banned=[attention_pb2.TokenIds(ids=ids) for ids in _banned(body, assets)],
        reasoning=rules.reasoning,
        prompt_logprobs=prompt_logprobs(body),
        prompt_only=max_tokens == 0,
    )


def wants_logprobs(body: Sampled) -> bool:
    if isinstance(body, ChatRequest):
        return bool(body.logprobs)
    return isinstance(body, CompletionRequest) and body.logprobs is not None


def top_logprobs(body: Sampled) -> int:
    """Returns how many alternatives per token are wanted. Raises InvalidRequest for top_logprobs without logprobs."""
    if isinstance(body, ChatRequest):
        if body.top_logprobs and not body.logprobs:
            raise InvalidRequest("top_logprobs needs logprobs to be true.", param="top_logprobs")
        return body.top_logprobs or 0
    return (body.logprobs or 0) if isinstance(body, CompletionRequest) else 0


def prompt_logprobs(body: Sampled) -> int | None:
    """Returns how many alternatives are wanted for every token of the prompt; None when it is not scored."""
    echoed = body.logprobs if isinstance(body, CompletionRequest) and body.echo else None
    wanted = [count for count in (body.prompt_logprobs, echoed) if count is not None]
    return max(wanted, default=None)


def check_scores(body: Sampled, tokens: int) -> None:
    """Raises InvalidRequest when the scores of so many tokens of prompts are more than an answer may have."""
    wanted, choices = prompt_logprobs(body), (body.n or 1) if isinstance(body, CompletionRequest) else 1
    if wanted is not None and tokens * choices * (1 + wanted) > MAX_SCORES:
        param = "prompt_logprobs" if body.prompt_logprobs is not None else "logprobs"
        raise InvalidRequest(
            f"{param}: at most {MAX_SCORES} log-probabilities of prompts in an answer, and {tokens} tokens of prompts"
            f" with {wanted} alternatives each have more.",
            param=param,
            code="value_out_of_range",
        )


def _first(*values: float | None) -> float:
    """Returns the first value that is set."""
    return next(float(value) for value in values if value is not None)


def _stop_ids(body: Sampled, assets: ModelAssets) -> list[int]:
    """Returns the request's own ids, and those that end an answer which workers do not know from config.json."""
    ids = sorted(set(body.stop_token_ids or []))
    if ids and ids[-1] >= assets.vocab_size:
        raise InvalidRequest(
            f"stop_token_ids must be below {assets.vocab_size}.", param="stop_token_ids", code="value_out_of_range"
        )
    ends = frozenset() if body.ignore_eos else assets.eos_ids - assets.worker_eos_ids
    return sorted(ends.union(ids))


def _allowed_ids(body: Sampled, vocab_size: int) -> list[int]:
    ids = sorted(set(body.allowed_token_ids or []))
    if ids and ids[-1] >= vocab_size:
        raise InvalidRequest(
            f"allowed_token_ids must be below {vocab_size}.", param="allowed_token_ids", code="value_out_of_range"
        )
    return ids


def _banned(body: Sampled, assets: ModelAssets) -> list[list[int]]:
    """Returns the ids of each word that is not to come: at the beginning of a text, and after a space.

    The token that begins a call is one where no tool may be called.
    """
    texts = [text for word in body.bad_words or () for text in (word, " " + word.lstrip())]
    ids = {tuple(assets.encode(text, add_special_tokens=False)) for text in texts}
    if isinstance(body, ChatRequest) and body.tools and body.tool_choice == "none":
        ids |= {(assets.vocabulary.added[TOOL],)} if TOOL in assets.vocabulary.added else set()
    return [list(each) for each in sorted(ids) if each]


def _logit_bias(body: Sampled, vocab_size: int) -> dict[int, float]:
    bias: dict[int, float] = {}
    for key, value in (body.logit_bias or {}).items():
        if not (key.isascii() and key.isdigit() and len(key) < 10 and int(key) < vocab_size):
            raise InvalidRequest(
                f"logit_bias: keys must be token ids below {vocab_size}.", param="logit_bias", code="value_out_of_range"
            )
        bias[int(key)] = float(value)
    return bias
