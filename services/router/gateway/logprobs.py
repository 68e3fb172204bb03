"""Log-probabilities in OpenAI's two shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from caracal_proto import attention_pb2

from services.router.requests.detokenizer import Vocabulary

Scored = attention_pb2.Token | attention_pb2.TopLogprob


def chat_logprobs(tokens: Sequence[attention_pb2.Token], vocabulary: Vocabulary) -> list[dict[str, Any]]:
    """`choices[].logprobs.content` of chat completions."""
    return [
        {**_entry(token, vocabulary), "top_logprobs": [_entry(other, vocabulary) for other in token.top]}
        for token in tokens
    ]


def _entry(token: Scored, vocabulary: Vocabulary) -> dict[str, Any]:
    piece = vocabulary.token_bytes(token.id)
    return {"token": piece.decode("utf-8", "replace"), "logprob": _finite(token.logprob), "bytes": list(piece)}


def completion_logprobs(
    tokens: Sequence[attention_pb2.Token], vocabulary: Vocabulary, offset: int
) -> tuple[dict[str, Any], int]:
    """`choices[].logprobs` of completions, and the text offset of the token after the last."""
    texts = [vocabulary.token_bytes(token.id).decode("utf-8", "replace") for token in tokens]
    offsets = []
    for text in texts:
        offsets.append(offset)
        offset += len(text)
    top = [dict([*(_pair(other, vocabulary) for other in token.top), _pair(token, vocabulary)]) for token in tokens]
    scores = [_finite(token.logprob) for token in tokens]
    return {"tokens": texts, "token_logprobs": scores, "top_logprobs": top, "text_offset": offsets}, offset


def _pair(token: Scored, vocabulary: Vocabulary) -> tuple[str, float]:
    return vocabulary.token_bytes(token.id).decode("utf-8", "replace"), _finite(token.logprob)


def _finite(logprob: float) -> float:
    """JSON has no infinity; OpenAI writes -9999 for a token that could not be drawn."""
    return max(logprob, -9999.0)
