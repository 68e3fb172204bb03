"""Tags keep their places in the text, whatever stop strings hold back and however the ids come."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.byte_fallback import byte_fallback_tokenizer
from support.gateway_assets import TAGS, train_tokenizer

from services.checkpoint.vocabulary import Vocabulary
from services.router.requests.detokenizer import decoder_of
from services.router.requests.stops import StopStrings
from services.router.requests.text import Tag, TaggedText, TextFold

VOCABULARIES = {
    name: Vocabulary(tokenizer, json.loads(tokenizer.to_str()))
    for name, tokenizer in (("byte-level", train_tokenizer()), ("byte-fallback", byte_fallback_tokenizer()))
}
STOPS = st.lists(st.sampled_from(["<", "<longcat", "call>x", "ll>", "�", "x<", "<longcat_think>y", "yy"]), max_size=3)


def ids_by_bytes(vocabulary: Vocabulary) -> dict[bytes, int]:
    return {data: i for i, data in enumerate(vocabulary.bytes_by_id)}


def fold_of(vocabulary: Vocabulary, stops: list[str], minimum: int = 0) -> TextFold:
    return TextFold(
        decoder_of(vocabulary),
        StopStrings(stops),
        min_tokens=minimum,
        checked=bool(stops),
        tags={vocabulary.added[tag]: tag for tag in TAGS},
    )


@pytest.mark.parametrize("name", VOCABULARIES)
@given(stops=STOPS, minimum=st.integers(0, 3), data=st.data())
def test_tags_are_where_their_tokens_are(name: str, stops: list[str], minimum: int, data: st.DataObject) -> None:
    vocabulary = VOCABULARIES[name]
    by_bytes = ids_by_bytes(vocabulary)
    parts = [tag.encode() for tag in TAGS] + [b"x", b"y", b"<", b"l", b">", b"\xe7", b"\x8c", b"\xab"]
    ids = [by_bytes[part] for part in data.draw(st.lists(st.sampled_from(parts), max_size=14))]
    fold, plain = fold_of(vocabulary, stops, minimum), StopStrings(stops)
    shown, rest = TaggedText(), list(ids)
    while rest and fold.hit is None:
        size = data.draw(st.integers(1, len(rest)))
        shown, rest = shown + fold.push(rest[:size])[0], rest[size:]
        assert not any(
            shown.text.endswith(tag[:end]) for tag in TAGS if tag not in stops for end in range(9, len(tag))
        ) or (fold.hit is not None), "a tag is shown as a whole"
    shown = shown if fold.hit is not None else shown + fold.finish()

    text, places, decoder = "", [], decoder_of(vocabulary)
    for count, token_id in enumerate(ids, 1):
        delta = decoder.push([token_id])
        text += delta if count <= minimum or not stops else plain.push(delta)
        places.append((token_id, delta))
    text += plain.push(decoder.finish()) + plain.finish() if plain.hit is None else ""
    assert (shown.text, fold.hit) == (text, plain.hit)
    expected, end = [], 0
    for token_id, delta in places:
        end += len(delta)
        token = vocabulary.token_bytes(token_id).decode(errors="ignore")
        if token in TAGS and end <= len(text):
            expected.append(Tag(end - len(token), token))
    assert list(shown.tags) == expected


def test_text_that_reads_like_a_tag_is_none() -> None:
    vocabulary = VOCABULARIES["byte-level"]
    by_bytes = ids_by_bytes(vocabulary)
    spelled = [by_bytes[bytes((byte,))] for byte in TAGS[0].encode()]
    fold = fold_of(vocabulary, [])
    text, used = fold.push([*spelled, vocabulary.added[TAGS[0]], *spelled])
    assert text + fold.finish() == TaggedText(TAGS[0] * 3, (Tag(len(TAGS[0]), TAGS[0]),))
    assert used == 2 * len(spelled) + 1


def test_a_tag_that_the_decoder_leaves_out_is_none() -> None:
    vocabulary = VOCABULARIES["byte-level"]
    tag = vocabulary.added[TAGS[0]]
    fold = TextFold(decoder_of(vocabulary, [tag]), StopStrings([]), checked=False, tags={tag: TAGS[0]})
    assert fold.push([tag]) == (TaggedText(), 1)
    assert fold.finish() == TaggedText()


def test_a_tag_that_a_stop_string_cuts_is_text() -> None:
    vocabulary = VOCABULARIES["byte-level"]
    tag, x = vocabulary.added[TAGS[0]], ids_by_bytes(vocabulary)[b"x"]
    fold = fold_of(vocabulary, ["call>x"])
    assert fold.push([tag]) == (TaggedText(), 1)  # all of it waits for its end
    assert fold.push([tag]) == (TaggedText(TAGS[0], (Tag(0, TAGS[0]),)), 1)
    assert fold.push([x, x]) == (TaggedText("<longcat_tool_"), 1)
    assert fold.hit == "call>x"
