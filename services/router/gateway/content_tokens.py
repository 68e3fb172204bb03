"""Which tokens made which part of an answer's content, for log-probabilities of the content alone."""

from __future__ import annotations

from collections.abc import Sequence

from caracal_proto import attention_pb2

from services.checkpoint.vocabulary import Vocabulary
from services.router.gateway.output_parser import Delta

Tokens = Sequence[attention_pb2.Token]


class ContentTokens:
    """Goes along with the parser of one choice.

    Tokens wait until their text is certain. Then those belong to a piece of content whose bytes lie in it; tags,
    reasoning, calls and the end of the answer belong to none.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._waiting: list[attention_pb2.Token] = []

    def push(self, tokens: Tokens, deltas: Sequence[Delta]) -> list[Tokens]:
        """Returns the tokens of each delta."""
        self._waiting += tokens
        found: list[Tokens] = []
        for delta in deltas:
            found.append(self._take(delta.text.encode()) if delta.kind == "content" else ())
            if delta.kind == "reasoning":
                self._take(delta.text.encode())
        if deltas and deltas[-1].kind == "tool":
            self._waiting.clear()
        return found

    def _take(self, text: bytes) -> Tokens:
        """Takes the tokens of a text, and drops those before it."""
        spans: list[tuple[int, int]] = []
        data = b""
        for token in self._waiting:
            piece = self._vocabulary.token_bytes(token.id)
            spans.append((len(data), len(data) + len(piece)))
            data += piece
        start = data.find(text)
        if start < 0:  # not the bytes of its tokens: replaced characters
            taken, self._waiting = self._waiting, []
            return taken
        end = start + len(text)
        own = [token for token, (low, high) in zip(self._waiting, spans, strict=True) if high > start and low < end]
        self._waiting = [token for token, (_, high) in zip(self._waiting, spans, strict=True) if high > end]
        return own
