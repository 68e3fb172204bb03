"""Incremental decoding against the tokenizer's own decoding of all ids at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from functools import partial
from itertools import groupby
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.byte_fallback import byte_fallback_tokenizer
from support.gateway_assets import BOS, EOS, train_tokenizer
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import BPEDecoder, ByteFallback, Metaspace, WordPiece
from tokenizers.decoders import Sequence as DecoderSequence
from tokenizers.models import WordLevel

from services.checkpoint.vocabulary import Vocabulary
from services.router.requests.detokenizer import LONGEST_PART, Decoder, WindowDecoder, decoder_of

TEXTS = st.text(st.characters(codec="utf-8"), max_size=30)


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    return Vocabulary(tokenizer, json.loads(tokenizer.to_str()))


def id_of(tokenizer: Tokenizer, token: str) -> int:
    token_id = tokenizer.token_to_id(token)
    assert token_id is not None
    return token_id


def word_tokenizer(decoder: Any) -> Tokenizer:
    tokens = ["<s>", "▁hello", "▁world", "▁", "##ed", "a</w>", "b</w>", "<unk>", "x"]
    tokenizer = Tokenizer(WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="<unk>"))
    tokenizer.decoder = decoder
    tokenizer.add_special_tokens(["<s>"])
    return tokenizer


TOKENIZER = train_tokenizer()
TOKENIZER.add_tokens([AddedToken(text, normalized=False) for text in ("→", "ça", "é")])
VOCABULARY = vocabulary_of(TOKENIZER)
FALLBACKS = {"llama": byte_fallback_tokenizer(), "gemma": byte_fallback_tokenizer(strip=False)}
OTHERS = {
    "byte-level": TOKENIZER,
    "metaspace": word_tokenizer(Metaspace()),
    "word-piece": word_tokenizer(WordPiece(cleanup=False)),
    "bpe": word_tokenizer(BPEDecoder()),
}
VOCABULARIES = {name: vocabulary_of(tokenizer) for name, tokenizer in (FALLBACKS | OTHERS).items()}


def decode(vocabulary: Vocabulary, ids: Sequence[int], data: st.DataObject, skip: Collection[int] = ()) -> str:
    """Decodes ids in chunks of random sizes."""
    decoder, text, rest = decoder_of(vocabulary, skip), "", list(ids)
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        text, rest = text + decoder.push(rest[:size]), rest[size:]
    return text + decoder.finish()


@pytest.mark.parametrize("name", OTHERS)
@given(data=st.data())
def test_any_ids_in_any_chunks_give_the_tokenizers_own_text(name: str, data: st.DataObject) -> None:
    tokenizer, vocabulary = OTHERS[name], VOCABULARIES[name]
    ids = data.draw(st.lists(st.integers(0, vocabulary.size - 1), max_size=40))
    assert decode(vocabulary, ids, data) == tokenizer.decode(ids, skip_special_tokens=False)
    assert decode(vocabulary, ids, data, vocabulary.special_ids) == tokenizer.decode(ids)


def byte_of(tokenizer: Tokenizer, token_id: int) -> int | None:
    token = tokenizer.id_to_token(token_id) or ""
    return int(token[3:5], 16) if token.startswith("<0x") and token.endswith(">") and token != "<0xZZ>" else None


def characters(data: bytes) -> str:
    """Returns the characters of a run of bytes; a byte that is in none counts as a character of its own."""
    text, start = "", 0
    while start < len(data):
        sizes = [size for size in (1, 2, 3, 4) if is_character(data[start : start + size])]
        text += data[start : start + sizes[0]].decode() if sizes else "\ufffd"
        start += sizes[0] if sizes else 1
    return text


def is_character(data: bytes) -> bool:
    try:
        return len(data.decode()) == 1
    except UnicodeDecodeError:
        return False


def fallback_text(tokenizer: Tokenizer, ids: Sequence[int], *, strip: bool) -> str:
    """Returns what a byte-fallback tokenizer makes of ids, but for one thing.

    The library takes a run of byte tokens as valid or not, all of it: a wrong byte would change the characters before
    it, which may have been shown long ago.
    """
    text = ""
    for is_byte, run in groupby(ids, lambda i: byte_of(tokenizer, i) is not None):
        if is_byte:
            text += characters(bytes(byte_of(tokenizer, i) or 0 for i in run))
        else:
            text += tokenizer.decode([id_of(tokenizer, "x"), *run], skip_special_tokens=False)[1:]
    return text.removeprefix(" ") if strip else text


@pytest.mark.parametrize("name", FALLBACKS)
@given(data=st.data())
def test_byte_fallback_takes_each_character_for_itself(name: str, data: st.DataObject) -> None:
    tokenizer, vocabulary = FALLBACKS[name], VOCABULARIES[name]
    any_id = st.integers(0, vocabulary.size - 1)
    byte = st.sampled_from([id_of(tokenizer, f"<0x{byte:02X}>") for byte in b" \xe7\x8c\xab\xf0\x9f\x90\x88\xff"])
    text = TEXTS.map(lambda text: tokenizer.encode(text).ids)
    groups = data.draw(st.lists(st.one_of(st.lists(any_id, max_size=4), st.lists(byte, max_size=6), text), max_size=6))
    ids = [i for group in groups for i in group]
    strip = name == "llama"
    assert decode(vocabulary, ids, data) == fallback_text(tokenizer, ids, strip=strip)
    shown = [i for i in ids if i not in vocabulary.special_ids]
    assert decode(vocabulary, ids, data, vocabulary.special_ids) == fallback_text(tokenizer, shown, strip=strip)


@pytest.mark.parametrize("name", FALLBACKS)
@given(data=st.data())
def test_byte_fallback_gives_the_tokenizers_own_text(name: str, data: st.DataObject) -> None:
    """The library's own text, wherever no run of bytes has both a character and a byte that is in none."""
    tokenizer, vocabulary = FALLBACKS[name], VOCABULARIES[name]
    wrong = st.lists(st.sampled_from([0x80, 0xAB, 0xC0, 0xE7, 0xF0, 0xFF]), max_size=3)
    plain = [i for i in range(vocabulary.size) if byte_of(tokenizer, i) is None]
    groups = data.draw(st.lists(st.one_of(TEXTS, wrong, st.sampled_from(plain)), max_size=8))
    ids = []
    for group in groups:
        if isinstance(group, str):
            ids += tokenizer.encode(group).ids
        elif isinstance(group, list):
            ids += [id_of(tokenizer, "x"), *(id_of(tokenizer, f"<0x{byte:02X}>") for byte in group)]
        ids.append(group if isinstance(group, int) else id_of(tokenizer, "in"))
    assert decode(vocabulary, ids, data) == tokenizer.decode(ids, skip_special_tokens=False)
    assert decode(vocabulary, ids, data, vocabulary.special_ids) == tokenizer.decode(ids)


MAKERS: list[tuple[Tokenizer, Callable[[], Decoder]]] = [
    *((tokenizer, partial(decoder_of, VOCABULARIES[name])) for name, tokenizer in FALLBACKS.items()),
    (TOKENIZER, partial(decoder_of, VOCABULARY)),
    (TOKENIZER, lambda: WindowDecoder(TOKENIZER, frozenset())),
]


@pytest.mark.parametrize(("tokenizer", "make"), MAKERS)
@given(text=TEXTS)
@example(text="é𐀀")
def test_no_character_is_ever_split(tokenizer: Tokenizer, make: Callable[[], Decoder], text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    decoder, shown, whole = make(), "", tokenizer.decode(ids, skip_special_tokens=False)
    for token_id in ids:
        shown += decoder.push([token_id])
        assert whole.startswith(shown)
    assert shown + decoder.finish() == whole


@pytest.mark.parametrize("name", [*FALLBACKS, "byte-level"])
def test_an_invalid_byte_is_shown_at_once_and_a_begun_character_is_not(name: str) -> None:
    vocabulary = VOCABULARIES[name]
    ids = {data: i for i, data in enumerate(vocabulary.bytes_by_id) if len(data) == 1}
    decoder = decoder_of(vocabulary)
    shown = [decoder.push([ids[bytes((byte,))]]) for byte in b"\xff\x80\xf0\x9f\x90\x88\xe7\x8c"]
    assert shown == ["\ufffd", "\ufffd", "", "", "", "🐈", "", ""]
    assert set(decoder.finish()) == {"\ufffd"}


class CountingTokenizer:
    """A tokenizer that counts the ids it decodes."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.decoded = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        self.decoded += len(ids)
        return self.tokenizer.decode(ids, skip_special_tokens)


@pytest.mark.parametrize("token", ["<0xFF>", "<0xE7>", "x", "▁"])
@pytest.mark.parametrize("chunk", [1, 7, 2000])
def test_the_work_per_token_is_bounded(token: str, chunk: int) -> None:
    tokenizer = byte_fallback_tokenizer()
    tokenizer.decoder = DecoderSequence([ByteFallback(), WordPiece(cleanup=False)])  # not worked out token by token
    counting = CountingTokenizer(tokenizer)
    decoder = decoder_of(Vocabulary(cast("Tokenizer", counting), json.loads(tokenizer.to_str())))
    counting.decoded, held = 0, 0
    ids = [id_of(tokenizer, token)] * 2000
    for start in range(0, len(ids), chunk):
        held = 0 if decoder.push(ids[start : start + chunk]) else held + chunk
        assert held <= LONGEST_PART
    assert 0 < counting.decoded <= 2000 * 4 * (LONGEST_PART + 1)


def test_known_decoders_never_ask_the_tokenizer() -> None:
    tokenizer = byte_fallback_tokenizer()
    counting = CountingTokenizer(tokenizer)
    decoder = decoder_of(Vocabulary(cast("Tokenizer", counting), json.loads(tokenizer.to_str())))
    assert decoder.push([id_of(tokenizer, "<0xFF>")] * 2000) == "\ufffd" * 2000
    assert counting.decoded == 0


def test_bytes_of_tokens() -> None:
    ids = TOKENIZER.encode("a猫", add_special_tokens=False).ids
    assert b"".join(VOCABULARY.token_bytes(i) for i in ids) == "a猫".encode()
    assert VOCABULARY.token_bytes(EOS) == b"</longcat_s>"
    assert VOCABULARY.token_bytes(10**6) == b""
    assert decoder_of(VOCABULARY).push([10**6]) == ""


def test_bytes_of_tokens_with_byte_fallback_and_with_another_decoder() -> None:
    tokenizer, vocabulary = FALLBACKS["llama"], VOCABULARIES["llama"]
    ids = tokenizer.encode("the 猫🐈", add_special_tokens=False).ids
    assert b"".join(vocabulary.token_bytes(i) for i in ids) == " the 猫🐈".encode()
    assert vocabulary.token_bytes(id_of(tokenizer, "<0xE7>")) == b"\xe7"
    assert vocabulary.token_bytes(id_of(tokenizer, "<0xZZ>")) == b"<0xZZ>"
    assert [VOCABULARIES["metaspace"].token_bytes(i) for i in (0, 1, 3)] == [b"<s>", b" hello", b" "]


def test_special_ids_and_added_tokens() -> None:
    assert {BOS, EOS} <= VOCABULARY.special_ids
    assert VOCABULARY.added["<longcat_tool_call>"] not in VOCABULARY.special_ids
