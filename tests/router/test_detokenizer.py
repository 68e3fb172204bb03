"""Incremental decoding against the tokenizer's own decoding of all ids at once."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.gateway_assets import BOS, EOS, train_tokenizer
from tokenizers import Tokenizer
from tokenizers.decoders import Metaspace as MetaspaceDecoder
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Metaspace

from services.router.requests.detokenizer import PrefixDecoder, Vocabulary

TOKENIZER = train_tokenizer()
VOCABULARY = Vocabulary(TOKENIZER, json.loads(TOKENIZER.to_str()))
IDS = st.integers(0, VOCABULARY.size - 1)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=30)


@given(st.lists(IDS, max_size=40), st.data())
def test_any_ids_in_any_chunks_give_the_same_text(ids: list[int], data: st.DataObject) -> None:
    decoder, text, rest = VOCABULARY.decoder(), "", list(ids)
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        text, rest = text + decoder.push(rest[:size]), rest[size:]
    assert text + decoder.finish() == TOKENIZER.decode(ids, skip_special_tokens=False)


@given(st.lists(IDS, max_size=40))
def test_special_tokens_are_skipped_as_the_tokenizer_skips_them(ids: list[int]) -> None:
    decoder = VOCABULARY.decoder(VOCABULARY.special_ids)
    assert decoder.push(ids) + decoder.finish() == TOKENIZER.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("make", [VOCABULARY.decoder, lambda: PrefixDecoder(TOKENIZER, frozenset())])
@given(text=TEXTS)
def test_no_character_is_ever_split(make: Callable[[], PrefixDecoder], text: str) -> None:
    decoder, shown = make(), ""
    for token_id in TOKENIZER.encode(text, add_special_tokens=False).ids:
        shown += decoder.push([token_id])
        assert text.startswith(shown)
    assert shown + decoder.finish() == text


def test_bytes_of_tokens() -> None:
    ids = TOKENIZER.encode("a猫", add_special_tokens=False).ids
    assert b"".join(VOCABULARY.token_bytes(i) for i in ids) == "a猫".encode()
    assert VOCABULARY.token_bytes(EOS) == b"</longcat_s>"
    assert VOCABULARY.token_bytes(10**6) == b""
    assert VOCABULARY.decoder().push([10**6]) == ""


def test_a_tokenizer_with_another_decoder() -> None:
    words = Tokenizer(WordLevel({"<s>": 0, "▁hello": 1, "▁world": 2, "<unk>": 3}, unk_token="<unk>"))
    words.pre_tokenizer, words.decoder = Metaspace(), MetaspaceDecoder()
    vocabulary = Vocabulary(
        words, {**json.loads(words.to_str()), "added_tokens": [{"id": 0, "content": "<s>", "special": True}]}
    )
    assert not vocabulary.byte_level
    decoder = vocabulary.decoder(vocabulary.special_ids)
    assert [decoder.push([i]) for i in (0, 1, 2)] == ["", "hello", " world"]
    assert decoder.finish() == ""


def test_special_ids_and_added_tokens() -> None:
    assert {BOS, EOS} <= VOCABULARY.special_ids
    assert VOCABULARY.added["<longcat_tool_call>"] not in VOCABULARY.special_ids
