"""Log-probabilities in OpenAI's two formats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from caracal_proto import attention_pb2

from services.router.requests.detokenizer import Vocabulary

Scored = attention_pb2.Token | attention_pb2.TopLogprob


def chat_logprobs(tokens: Sequence[attention_pb2.Token], vocabulary: Vocabulary) -> list[dict[str, Any]]:
    """Returns `choices[].logprobs.content` of chat completions."""
    return [
        {**_entry(token, vocabulary), "top_logprobs": [_entry(other, vocabulary) for other in token.top]}
        for token in tokens
    ]


def _entry(token: Scored, vocabulary: Vocabulary) -> dict[str, Any]:
    data = vocabulary.token_bytes(token.id)
    return {"token": data.decode("utf-8", "replace"), "logprob": _finite(token.logprob), "bytes": list(data)}


def completion_logprobs(
    tokens: Sequence[attention_pb2.Token], vocabulary: Vocabulary, offset: int
) -> tuple[dict[str, Any], int]:
    """Returns `choices[].logprobs` of completions, and the text offset of the token after the last."""
    texts = [vocabulary.token_bytes(token.id).decode("utf-8", "replace") for token in tokens]
    offsets = []
    for text in texts:
        offsets.append(offset)
        offset += len(text)
    top = [
        dict([*(_text_and_logprob(other, vocabulary) for other in token.top), _text_and_logprob(token, vocabulary)])
        for token in tokens
    ]
    scores = [_finite(token.logprob) for token in tokens]
    return {"tokens": texts, "token_logprobs": scores, "top_logprobs": top, "text_offset": offsets}, offset


def _text_and_logprob(token: Scored, vocabulary: Vocabulary) -> tuple[str, float]:
    return vocabulary.token_bytes(token.id).decode("utf-8", "replace"), _finite(token.logprob)


def _finite(logprob: float) -> float:
    """Replaces minus infinity, which JSON lacks, by -9999, as OpenAI does for a token that cannot be sampled."""
    return max(logprob, -9999.0)
