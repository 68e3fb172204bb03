"""Stop strings against a reference that has the whole text at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from support.gateway_assets import train_tokenizer

from services.checkpoint.vocabulary import Vocabulary
from services.router.requests.detokenizer import decoder_of
from services.router.requests.stops import StopStrings, held_length
from services.router.requests.text import TextFold

TOKENIZER = train_tokenizer()
VOCABULARY = Vocabulary(TOKENIZER, {"decoder": {"type": "ByteLevel"}})
ALPHABET = st.sampled_from("ab<猫🐈")  # few characters, so that patterns and their beginnings occur


def reference(text: str, stops: list[str], *, include: bool) -> tuple[str, bool]:
    """Returns (the text before the first stop string, whether there is one); of several that end there, the longest."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end if include else end - max(map(len, ending))], True
    return text, False


@given(
    st.lists(st.text(ALPHABET, max_size=4), max_size=12),
    st.lists(st.text(ALPHABET, min_size=1, max_size=5), min_size=1, max_size=4),
    st.booleans(),
)
def test_any_cut_of_the_text_gives_the_same_result(deltas: list[str], stops: list[str], include: bool) -> None:
    stop_strings = StopStrings(stops, include=include)
    shown = ""
    expected, hit = reference("".join(deltas), stops, include=include)
    for delta in deltas:
        shown += stop_strings.push(delta)
        assert expected.startswith(shown), "no part of a stop string is shown"
    shown += stop_strings.finish()
    assert shown == expected
    assert (stop_strings.hit is not None) == hit


@given(
    st.lists(st.text(st.sampled_from("ab<猫🐈"), min_size=1, max_size=6), min_size=1, max_size=5),
    st.lists(st.text(ALPHABET, min_size=1, max_size=5), min_size=1, max_size=4),
    st.integers(1, 5),
)
def test_real_tokens_in_any_chunks(words: list[str], stops: list[str], chunk: int) -> None:
    ids = TOKENIZER.encode("".join(words), add_special_tokens=False).ids
    fold = TextFold(decoder_of(VOCABULARY), StopStrings(stops))
    shown, used = "", 0
    for start in range(0, len(ids), chunk):
        text, count = fold.push(ids[start : start + chunk])
        shown, used = shown + text.text, used + count
        if fold.hit is not None:
            break
    else:
        shown += fold.finish().text
    expected, hit = reference("".join(words), stops, include=False)
    assert shown == expected
    assert (fold.hit is not None) == hit
    if hit:
        assert reference(TOKENIZER.decode(ids[:used]), stops, include=False)[1], (
            "the tokens used contain the stop string"
        )
        assert not reference(TOKENIZER.decode(ids[: used - 1]), stops, include=False)[1], "and no token more"


def test_held_length() -> None:
    assert held_length("hello", ["lo!", "ello?"]) == 4
    assert held_length("stop", ["stop"]) == 0
    assert held_length("aaa", ["aaaa"]) == 3
    assert held_length("", ["a"]) == 0
