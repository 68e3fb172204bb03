"""Turns token ids into text, a few at a time, without splitting a character. Pure."""

from __future__ import annotations

import codecs
from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Any, Protocol

from tokenizers import Tokenizer

REPLACEMENT = "\ufffd"


def _byte_alphabet() -> dict[str, int]:
    """Returns the byte of each printable character that byte-level BPE writes (GPT-2's `bytes_to_unicode`)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    shifted = [byte for byte in range(256) if byte not in set(plain)]
    alphabet = {chr(byte): byte for byte in plain}
    return alphabet | {chr(0x100 + i): byte for i, byte in enumerate(shifted)}


class Decoder(Protocol):
    """Decodes ids incrementally: `push` returns the text that is complete, `finish` the rest."""

    def push(self, ids: Sequence[int]) -> str: ...

    def finish(self) -> str: ...


class Vocabulary:
    """The bytes of each token id, and which ids are special. `raw` is the parsed tokenizer.json."""

    def __init__(self, tokenizer: Tokenizer, raw: dict[str, Any]) -> None:
        self._tokenizer = tokenizer
        self.byte_level = _is_byte_level(raw.get("decoder"))
        self.special_ids = frozenset(token["id"] for token in raw.get("added_tokens", []) if token.get("special"))
        self.added = {token["content"]: token["id"] for token in raw.get("added_tokens", [])}
        self.longest = max(map(len, tokenizer.get_vocab(with_added_tokens=True)), default=1)  # characters of a token
        self.size = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @cached_property
    def bytes_by_id(self) -> list[bytes]:
        """The bytes of each id, empty for ids without a token. With byte-level BPE they may be part of a character."""
        alphabet = _byte_alphabet()
        found = [b""] * self.size
        for token, token_id in self._tokenizer.get_vocab(with_added_tokens=True).items():
            if not self.byte_level:
                found[token_id] = self._tokenizer.decode([token_id], skip_special_tokens=False).encode()
            elif all(char in alphabet for char in token):
                found[token_id] = bytes(alphabet[char] for char in token)
            else:
                found[token_id] = token.encode()
        return found

    def token_bytes(self, token_id: int) -> bytes:
        """Returns the bytes of one id; empty for an id outside the vocabulary."""
        return self.bytes_by_id[token_id] if token_id < len(self.bytes_by_id) else b""

    def decoder(self, skip: Collection[int] = ()) -> Decoder:
        """Returns a new decoder. Ids in `skip` give no text."""
        if self.byte_level:
            return ByteDecoder(self.bytes_by_id, frozenset(skip))
        return PrefixDecoder(self._tokenizer, frozenset(skip))


def _is_byte_level(decoder: dict[str, Any] | None) -> bool:
    if not decoder:
        return False
    if decoder["type"] == "Sequence":
        return all(_is_byte_level(part) for part in decoder["decoders"])
    return bool(decoder["type"] == "ByteLevel")


class ByteDecoder:
    """Decodes byte-level BPE: a token is a byte string, and an incremental UTF-8 decoder does the rest."""

    def __init__(self, bytes_by_id: list[bytes], skip: frozenset[int]) -> None:
        self._bytes_by_id = bytes_by_id
        self._skip = skip
        self._size = len(bytes_by_id)
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, ids: Sequence[int]) -> str:
        bytes_by_id, skip, size = self._bytes_by_id, self._skip, self._size
        return self._utf8.decode(b"".join([bytes_by_id[i] for i in ids if i not in skip and i < size]))

    def finish(self) -> str:
        return self._utf8.decode(b"", True)


class PrefixDecoder:
    """Decodes any other tokenizer's ids: the new text is what the last few ids add to those before them."""

    def __init__(self, tokenizer: Tokenizer, skip: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._skip = skip
        self._window: list[int] = []
        self._known = 0  # ids of the window whose text was returned already

    def push(self, ids: Sequence[int]) -> str:
        self._window += [i for i in ids if i not in self._skip]
        before, now = self._decode(self._window[: self._known]), self._decode(self._window)
        # A replacement character at the end is most likely a character whose other bytes are still to come.
        if len(now) <= len(before) or now.endswith(REPLACEMENT):
            return ""
        self._window, self._known = self._window[self._known :], len(self._window) - self._known
        return now[len(before) :]

    def finish(self) -> str:
        return self._decode(self._window)[len(self._decode(self._window[: self._known])) :]

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)
