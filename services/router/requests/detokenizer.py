"""Ids to text, a few at a time, never splitting a character. A pure fold over the ids."""

from __future__ import annotations

import codecs
from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Any, Protocol

from tokenizers import Tokenizer

REPLACEMENT = "\ufffd"


def _byte_alphabet() -> dict[str, int]:
    """The printable character that byte-level BPE writes for each byte (GPT-2's `bytes_to_unicode`)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    shifted = [byte for byte in range(256) if byte not in set(plain)]
    alphabet = {chr(byte): byte for byte in plain}
    return alphabet | {chr(0x100 + i): byte for i, byte in enumerate(shifted)}


class Decoder(Protocol):
    """Text out of ids as they come."""

    def push(self, ids: Sequence[int]) -> str: ...

    def finish(self) -> str: ...


class Vocabulary:
    """What each id is in bytes, and which ids are special. `raw` is the parsed tokenizer.json."""

    def __init__(self, tokenizer: Tokenizer, raw: dict[str, Any]) -> None:
        self._tokenizer = tokenizer
        self.byte_level = _is_byte_level(raw.get("decoder"))
        self.special_ids = frozenset(token["id"] for token in raw.get("added_tokens", []) if token.get("special"))
        self.added = {token["content"]: token["id"] for token in raw.get("added_tokens", [])}
        self.longest = max(map(len, tokenizer.get_vocab(with_added_tokens=True)), default=1)  # characters of a token
        self.size = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @cached_property
    def pieces(self) -> list[bytes]:
        """Bytes by id; ids without a token are empty. Byte-level tokenizers only give single bytes of characters."""
        alphabet = _byte_alphabet()
        pieces = [b""] * self.size
        for token, token_id in self._tokenizer.get_vocab(with_added_tokens=True).items():
            if not self.byte_level:
                pieces[token_id] = self._tokenizer.decode([token_id], skip_special_tokens=False).encode()
            elif all(char in alphabet for char in token):
                pieces[token_id] = bytes(alphabet[char] for char in token)
            else:
                pieces[token_id] = token.encode()
        return pieces

    def token_bytes(self, token_id: int) -> bytes:
        """Bytes of one id; empty for an id outside the vocabulary."""
        return self.pieces[token_id] if token_id < len(self.pieces) else b""

    def decoder(self, skip: Collection[int] = ()) -> Decoder:
        """A decoder at the beginning of a text. Ids in `skip` are not shown."""
        if self.byte_level:
            return ByteDecoder(self.pieces, frozenset(skip))
        return PrefixDecoder(self._tokenizer, frozenset(skip))


def _is_byte_level(decoder: dict[str, Any] | None) -> bool:
    if not decoder:
        return False
    if decoder["type"] == "Sequence":
        return all(_is_byte_level(part) for part in decoder["decoders"])
    return bool(decoder["type"] == "ByteLevel")


class ByteDecoder:
    """Byte-level BPE: a token is a byte string, and an incremental UTF-8 decoder does the rest."""

    def __init__(self, pieces: list[bytes], skip: frozenset[int]) -> None:
        self._pieces = pieces
        self._skip = skip
        self._size = len(pieces)
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, ids: Sequence[int]) -> str:
        pieces, skip, size = self._pieces, self._skip, self._size
        return self._utf8.decode(b"".join([pieces[i] for i in ids if i not in skip and i < size]))

    def finish(self) -> str:
        return self._utf8.decode(b"", True)


class PrefixDecoder:
    """Any other tokenizer: the text is what the last few ids add to those before them."""

    def __init__(self, tokenizer: Tokenizer, skip: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._skip = skip
        self._window: list[int] = []
        self._known = 0  # ids of the window whose text is already out

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
