"""Turns rendered chats into token ids; what users typed never becomes a control token, whatever it reads like."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from itertools import pairwise
from typing import Any

from tokenizers import Encoding, Tokenizer

from services.router.requests.errors import InvalidRequest
from services.router.requests.marked_text import MarkedText, is_own, marks_of

_TAG = re.compile(r"[<\[{|(«【〈｜].*\w.*[>\]}|)»】〉｜]", re.DOTALL)
_WORDS = re.compile(r"[\w\s]*|[\W_]*")  # words or punctuation alone
_RAW = {"post_processor": None, "truncation": None, "padding": None}
_OWN_RUN = re.compile(rb"\x01+")


def control_tokens(raw: Mapping[str, Any], template_text: str, named: Collection[str]) -> dict[str, int]:
    """Returns the added tokens of a parsed tokenizer.json that have a meaning of their own, with their ids.

    These are special tokens, those that tokenizer_config.json names, all that look like a tag, and such as `USER:` if
    the chat templates write them. The others, runs of spaces or words added to the vocabulary, are text.
    """
    added = {token["content"]: token for token in raw.get("added_tokens") or ()}
    return {
        text: token["id"]
        for text, token in added.items()
        if token.get("special")
        or text in named
        or _TAG.fullmatch(text)
        or (text in template_text and not _WORDS.fullmatch(text))
    }


class PromptEncoder:
    """Encodes marked text with a tokenizer, whose parsed tokenizer.json is `raw`."""

    def __init__(self, tokenizer: Tokenizer, raw: Mapping[str, Any], control: Mapping[str, int]) -> None:
        self._tokenizer = tokenizer
        self._control_ids = frozenset(control.values())
        self._unknown = _unknown(tokenizer, raw)
        within = _no_first_prefix(raw.get("pre_tokenizer"))
        self._first = _without(raw, control)
        self._inner = self._first
        if within != raw.get("pre_tokenizer"):
            self._inner = _without({**raw, "pre_tokenizer": within}, control)
        # Without the tokens before them, those that are left may have got other ids.
        self._ids = {
            self._first.token_to_id(token["content"]): token["id"]
            for token in raw.get("added_tokens") or ()
            if token["content"] not in control
        }

    def encode(self, text: MarkedText) -> list[int]:
        """Returns the ids that transformers gives, but for texts of control tokens that the template did not write.

        Raises InvalidRequest for such a text that the tokenizer cannot write in any other way.
        """
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        if all(is_own(_content(text, start, end)) for _, start, end in self._controls(text, encoding.ids, encoding)):
            return encoding.ids
        ids: list[int] = []
        done = 0
        for token_id, start, end in self._own_controls(text):
            ids += self._encode_plain(text[done:start], at_start=done == 0)
            ids.append(token_id)
            done = end
        return ids + self._encode_plain(text[done:], at_start=done == 0)

    def _controls(self, text: str, ids: list[int], encoding: Encoding) -> Iterator[tuple[int, int, int]]:
        """Yields (id, start, end) of each control token. An unknown character is none, though its id may be one's."""
        for token_id, (start, end) in zip(ids, encoding.offsets, strict=True):
            if token_id not in self._control_ids:
                continue
            if token_id != self._unknown[0] or text[start:end].strip() == self._unknown[1]:
                yield token_id, start, end

    def _own_controls(self, text: MarkedText) -> Iterator[tuple[int, int, int]]:
        """Yields the control tokens in what the template wrote, found without what stands beside it."""
        for run in _OWN_RUN.finditer(marks_of(text)):
            own = str.__str__(text[run.start() : run.end()])
            encoding = self._tokenizer.encode(own, add_special_tokens=False)
            for token_id, start, end in self._controls(own, encoding.ids, encoding):
                yield token_id, run.start() + start, run.start() + end

    def _encode_plain(self, text: str, *, at_start: bool) -> list[int]:
        if not text:
            return []
        encoding = (self._first if at_start else self._inner).encode(text, add_special_tokens=False)
        ids = [self._ids.get(token_id, token_id) for token_id in encoding.ids]
        spans = [(start, end) for _, start, end in self._controls(text, ids, encoding)]
        if not spans:
            return ids
        # The model's own vocabulary has these tokens as well: they are cut, so that they are spelled out.
        if any(end - start < 2 for start, end in spans):
            raise InvalidRequest(
                "messages: the tokenizer has no other token for the text of a control token.", param="messages"
            )
        cuts = [0, *(start + 1 for start, _ in spans), len(text)]
        parts = [text[start:end] for start, end in pairwise(cuts)]
        return [
            token for i, part in enumerate(parts) for token in self._encode_plain(part, at_start=at_start and not i)
        ]


def _content(text: MarkedText, start: int, end: int) -> str:
    """Returns the text of a token without the white space beside it, which it may take in."""
    token = text[start:end]
    return token.strip() or token


def _without(raw: Mapping[str, Any], control: Collection[str]) -> Tokenizer:
    added = [token for token in raw.get("added_tokens") or () if token["content"] not in control]
    return Tokenizer.from_str(json.dumps({**raw, "added_tokens": added} | _RAW))


def _no_first_prefix(pre_tokenizer: dict[str, Any] | None) -> dict[str, Any] | None:
    """Returns a pre-tokenizer for text within a prompt: one that puts a space before the prompt puts none before it."""
    if pre_tokenizer is None:
        return None
    if pre_tokenizer["type"] == "Sequence":
        return {**pre_tokenizer, "pretokenizers": [_no_first_prefix(one) for one in pre_tokenizer["pretokenizers"]]}
    return pre_tokenizer | ({"prepend_scheme": "never"} if pre_tokenizer.get("prepend_scheme") == "first" else {})


def _unknown(tokenizer: Tokenizer, raw: Mapping[str, Any]) -> tuple[int | None, str | None]:
    """Returns the id that the model gives to what it has no token for, and its text."""
    model = raw.get("model") or {}
    if isinstance(model.get("unk_id"), int):
        return model["unk_id"], tokenizer.id_to_token(model["unk_id"])
    token = model.get("unk_token")
    return (tokenizer.token_to_id(token), token) if token else (None, None)
