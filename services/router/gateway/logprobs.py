"""Log-probabilities in OpenAI's two formats, true to ids and bytes."""

from __future__ import annotations

import codecs
from collections.abc import Collection, Sequence
from typing import Any

from caracal_proto import attention_pb2

from services.checkpoint.vocabulary import Vocabulary

Scored = attention_pb2.Token | attention_pb2.TopLogprob


class Logprobs:
    """Shows the tokens of one choice. `as_ids`: tokens are shown as `token_id:17`, whatever their text.

    `hidden`: ids that are not in the text, so that they take no room in it.
    """

    def __init__(self, vocabulary: Vocabulary, *, as_ids: bool, hidden: Collection[int] = frozenset()) -> None:
        self._vocabulary, self._as_ids, self._hidden = vocabulary, as_ids, hidden
        self._offset = 0  # characters of the text before the next token
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def chat(self, tokens: Sequence[attention_pb2.Token]) -> list[dict[str, Any]]:
        """Returns `choices[].logprobs.content` of chat completions."""
        return [{**self._entry(token), "top_logprobs": [self._entry(other) for other in token.top]} for token in tokens]

    def completion(self, tokens: Sequence[attention_pb2.Token]) -> dict[str, Any]:
        """Returns `choices[].logprobs` of completions.

        The tokens of one character share its offset. An alternative has the name that OpenAI gives it: its text, or
        `bytes:\\\\xf0` where its bytes are no text; `token_id:17` where another one of the same place has that name.
        """
        found: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for token in tokens:
            self._add(found, token.id, _finite(token.logprob), self._by_name([*token.top, token]))
        return found

    def echoed(self, ids: Sequence[int], scored: Sequence[attention_pb2.Token], most: int) -> dict[str, Any]:
        """Returns `choices[].logprobs` of a prompt, with `most` alternatives: its first token has none."""
        found: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        self._add(found, ids[0], None, None)
        for token in scored:
            self._add(found, token.id, _finite(token.logprob), self._by_name([*token.top[:most], token]))
        return found

    def prompt(self, scored: Sequence[attention_pb2.Token], most: int) -> list[dict[str, Any] | None]:
        """Returns vLLM's `prompt_logprobs`: by place in the prompt and id, with `most` alternatives."""
        places = ({str(one.id): self._scored(one, rank) for one, rank in _ranked(token, most)} for token in scored)
        return [None, *places]

    def _scored(self, one: Scored, rank: int) -> dict[str, Any]:
        text = self._vocabulary.token_bytes(one.id).decode("utf-8", "replace")
        return {"logprob": _finite(one.logprob), "rank": rank, "decoded_token": text}

    def _add(self, found: dict[str, list[Any]], token_id: int, logprob: float | None, top: Any) -> None:
        self._end_character(token_id)
        found["tokens"].append(self._name(token_id))
        found["token_logprobs"].append(logprob)
        found["top_logprobs"].append(top)
        found["text_offset"].append(self._offset)
        self._advance(token_id)

    def _end_character(self, token_id: int) -> None:
        """Counts what the text has for a character that this token does not complete."""
        pending, _ = self._decoder.getstate()
        data = self._vocabulary.token_bytes(token_id)
        if pending and data and token_id not in self._hidden and not 0x80 <= data[0] < 0xC0:
            self._offset += len(pending.decode("utf-8", "replace"))
            self._decoder.reset()

    def _advance(self, token_id: int) -> None:
        if token_id not in self._hidden:
            self._offset += len(self._decoder.decode(self._vocabulary.token_bytes(token_id)))

    def _by_name(self, scored: Sequence[Scored]) -> dict[str, float]:
        named: dict[str, float] = {}
        ids: set[int] = set()
        for one in scored:
            if one.id not in ids:
                name = self._name(one.id)
                named[name if name not in named else _id_name(one.id)] = _finite(one.logprob)
            ids.add(one.id)
        return named

    def _name(self, token_id: int) -> str:
        if self._as_ids:
            return _id_name(token_id)
        data = self._vocabulary.token_bytes(token_id)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)

    def _entry(self, token: Scored) -> dict[str, Any]:
        data = self._vocabulary.token_bytes(token.id)
        text = _id_name(token.id) if self._as_ids else data.decode("utf-8", "replace")
        return {"token": text, "logprob": _finite(token.logprob), "bytes": list(data)}


def _ranked(token: attention_pb2.Token, most: int) -> list[tuple[Scored, int]]:
    """The alternatives of a token and itself, each with its rank."""
    ranked: list[tuple[Scored, int]] = [(other, rank) for rank, other in enumerate(token.top[:most], 1)]
    return ranked if any(other.id == token.id for other, _ in ranked) else [*ranked, (token, token.rank)]


def _id_name(token_id: int) -> str:
    return f"token_id:{token_id}"


def _finite(logprob: float) -> float:
    """Replaces minus infinity, which JSON lacks, by -9999, as OpenAI does for a token that cannot be sampled."""
    return max(logprob, -9999.0)
