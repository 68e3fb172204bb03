"""Turns token ids into text, a few at a time, without splitting a character. Pure.

Time is linear in the ids: at most three bytes, or three ids, are held back for a character that is not complete.
"""

from __future__ import annotations

import codecs
from collections.abc import Collection, Sequence
from typing import Protocol

from tokenizers import Tokenizer

from services.checkpoint.token_bytes import REPLACEMENT, ByteRules
from services.checkpoint.vocabulary import Vocabulary

LONGEST_PART = 3  # bytes of a character of four without its last one: no more can be waiting for the rest


class Decoder(Protocol):
    """Decodes ids incrementally: `push` returns the text that is complete, `finish` the rest."""

    def push(self, ids: Sequence[int]) -> str: ...

    def finish(self) -> str: ...


def decoder_of(vocabulary: Vocabulary, skip: Collection[int] = ()) -> Decoder:
    """Returns a new decoder. Ids in `skip` give no text."""
    if vocabulary.rules is None:
        return WindowDecoder(vocabulary.tokenizer, frozenset(skip))
    return ByteDecoder(vocabulary.bytes_by_id, vocabulary.rules, frozenset(skip))


class ByteDecoder:
    """Decodes tokens that are byte strings: an incremental UTF-8 decoder does the rest."""

    def __init__(self, bytes_by_id: list[bytes], rules: ByteRules, skip: frozenset[int]) -> None:
        self._bytes_by_id = bytes_by_id
        self._skip = skip
        self._size = len(bytes_by_id)
        self._utf8 = codecs.getincrementaldecoder("utf-8")(rules.errors)
        self._strip, self._strips_left = rules.strip

    def push(self, ids: Sequence[int]) -> str:
        bytes_by_id, skip, size = self._bytes_by_id, self._skip, self._size
        if len(ids) == 1:  # nearly always, and half the time of the general form
            data = bytes_by_id[ids[0]] if ids[0] not in skip and ids[0] < size else b""
        else:
            data = b"".join([bytes_by_id[i] for i in ids if i not in skip and i < size])
        text = self._utf8.decode(data)
        return self._stripped(text) if self._strips_left else text

    def finish(self) -> str:
        return self._stripped(self._utf8.decode(b"", True))

    def _stripped(self, text: str) -> str:
        while self._strips_left and text:
            rest = text.removeprefix(self._strip)
            self._strips_left = self._strips_left - 1 if len(rest) < len(text) else 0
            text = rest
        return text


class WindowDecoder:
    """Decodes any other tokenizer's ids: the text of an id is what it adds to the ids just before it."""

    def __init__(self, tokenizer: Tokenizer, skip: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._skip = skip
        self._window: list[int] = []
        self._known = 0  # ids of the window whose text was returned already

    def push(self, ids: Sequence[int]) -> str:
        return "".join([self._push(i) for i in ids if i not in self._skip and self._tokenizer.id_to_token(i)])

    def finish(self) -> str:
        return self._decode(self._window)[len(self._decode(self._window[: self._known])) :]

    def _push(self, token_id: int) -> str:
        self._window.append(token_id)
        before, now = self._decode(self._window[: self._known]), self._decode(self._window)
        fresh = len(self._window) - self._known
        if len(now) <= len(before) or now.endswith(REPLACEMENT):  # it may be a part of a character
            if fresh <= LONGEST_PART:
                return ""
            fresh = 1
            now = self._decode(self._window[: self._known + 1])
        # The context of the ids to come begins where a character does.
        self._window, self._known = self._window[self._known :], fresh
        return now[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)
