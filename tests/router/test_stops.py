"""Stop strings against an oracle that sees the whole text at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from support.gateway_assets import train_tokenizer

from services.router.requests.detokenizer import Vocabulary
from services.router.requests.stops import StopStrings, held_length
from services.router.requests.text import TextFold

TOKENIZER = train_tokenizer()
VOCABULARY = Vocabulary(TOKENIZER, {"decoder": {"type": "ByteLevel"}})
ALPHABET = st.sampled_from("ab<猫🐈")  # few characters, so that patterns and their beginnings occur


def oracle(text: str, stops: list[str], *, include: bool) -> tuple[str, bool]:
    """The text up to the first prefix that ends with a stop string; the longest one, if several end there."""
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
def test_any_cut_of_the_text_gives_the_oracle_s_answer(pieces: list[str], stops: list[str], include: bool) -> None:
    machine = StopStrings(stops, include=include)
    shown = ""
    expected, hit = oracle("".join(pieces), stops, include=include)
    for piece in pieces:
        shown += machine.push(piece)
        assert expected.startswith(shown), "nothing of a stop string may leak"
    shown += machine.finish()
    assert shown == expected
    assert (machine.hit is not None) == hit


@given(
    st.lists(st.text(st.sampled_from("ab<猫🐈"), min_size=1, max_size=6), min_size=1, max_size=5),
    st.lists(st.text(ALPHABET, min_size=1, max_size=5), min_size=1, max_size=4),
    st.integers(1, 5),
)
def test_over_real_tokens_whatever_arrives_together(words: list[str], stops: list[str], chunk: int) -> None:
    ids = TOKENIZER.encode("".join(words), add_special_tokens=False).ids
    fold = TextFold(VOCABULARY.decoder(), StopStrings(stops))
    shown, used = "", 0
    for start in range(0, len(ids), chunk):
        text, count = fold.push(ids[start : start + chunk])
        shown, used = shown + text, used + count
        if fold.hit is not None:
            break
    else:
        shown += fold.finish()
    expected, hit = oracle("".join(words), stops, include=False)
    assert shown == expected
    assert (fold.hit is not None) == hit
    if hit:
        assert oracle(TOKENIZER.decode(ids[:used]), stops, include=False)[1], "the tokens used hold the stop string"
        assert not oracle(TOKENIZER.decode(ids[: used - 1]), stops, include=False)[1], "and no token more"


def test_held_length() -> None:
    assert held_length("hello", ["lo!", "ello?"]) == 4
    assert held_length("stop", ["stop"]) == 0
    assert held_length("aaa", ["aaaa"]) == 3
    assert held_length("", ["a"]) == 0
