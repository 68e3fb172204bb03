"""The bytes of every token id of a tokenizer."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer

from services.checkpoint.token_bytes import byte_rules


class Vocabulary:
    """The bytes of each token id, and which ids are special. `raw` is the parsed tokenizer.json.

    `bytes_by_id` is empty for ids without a token. The bytes of a token may be part of a character.
    """

    def __init__(self, tokenizer: Tokenizer, raw: dict[str, Any]) -> None:
        self.tokenizer = tokenizer
        self.rules = byte_rules(raw.get("decoder"))
        self.special_ids = frozenset(token["id"] for token in raw.get("added_tokens", []) if token.get("special"))
        self.added = {token["content"]: token["id"] for token in raw.get("added_tokens", [])}
        tokens = tokenizer.get_vocab(with_added_tokens=True)
        self.longest = max(map(len, tokens), default=1)  # characters of a token
        self.size = max(tokens.values(), default=-1) + 1
        self.bytes_by_id = [b""] * self.size
        for token, token_id in tokens.items():
            self.bytes_by_id[token_id] = self.rules.token_bytes(token) if self.rules else self._decoded(token_id)

    def token_bytes(self, token_id: int) -> bytes:
        """Returns the bytes of one id; empty for an id outside the vocabulary."""
        return self.bytes_by_id[token_id] if token_id < len(self.bytes_by_id) else b""

    def _decoded(self, token_id: int) -> bytes:
        """Returns the bytes of a token within a text: at its beginning a space may be missing."""
        once, twice = (self.tokenizer.decode([token_id] * times, skip_special_tokens=False) for times in (1, 2))
        within = twice[len(once) :]
        return (within if within.endswith(once) else once).encode()
