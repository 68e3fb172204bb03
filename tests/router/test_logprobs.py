"""Logprobs are true to ids and bytes: no alternative is lost whose bytes are no text, and offsets count characters."""

from __future__ import annotations

from caracal_proto.attention_pb2 import Token, TopLogprob
from support.byte_vocabulary import byte_vocabulary

from services.router.gateway.logprobs import Logprobs

CAT = "🐈".encode()


def token(id: int, *others: int) -> Token:
    return Token(id=id, logprob=-id / 8, top=[TopLogprob(id=other, logprob=-other / 8) for other in others])


def test_parts_of_characters_have_names_of_their_own() -> None:
    shown = Logprobs(byte_vocabulary(), as_ids=False).completion([token(0xF0, 0xF1, 0xF2, 0xF3, 65)])
    assert shown["tokens"] == [r"bytes:\xf0"]
    assert list(shown["top_logprobs"][0]) == [r"bytes:\xf1", r"bytes:\xf2", r"bytes:\xf3", "A", r"bytes:\xf0"]


def test_as_many_alternatives_as_asked_for_and_the_token_itself() -> None:
    shown = Logprobs(byte_vocabulary(), as_ids=False).completion([token(65, *range(200, 220)), token(66, 66, 67)])
    assert [len(top) for top in shown["top_logprobs"]] == [21, 2]


def test_ids_without_a_text_keep_apart() -> None:
    shown = Logprobs(byte_vocabulary(), as_ids=False).completion([token(900, 901, 66)])  # rows that pad the embedding
    assert shown["top_logprobs"] == [{"": -901 / 8, "B": -66 / 8, "token_id:900": -900 / 8}]


def test_tokens_of_one_character_share_its_offset() -> None:
    shown = Logprobs(byte_vocabulary(), as_ids=False, hidden={70})
    first = shown.completion([token(70), token(65), *(token(byte) for byte in CAT[:2])])
    then = shown.completion([*(token(byte) for byte in CAT[2:]), token(66)])
    assert first["text_offset"] + then["text_offset"] == [0, 0, 1, 1, 1, 1, 2]


def test_a_character_that_is_never_complete_has_its_place_in_the_text() -> None:
    shown = Logprobs(byte_vocabulary(), as_ids=False).completion([token(65), token(0xE2), token(0x82), token(66)])
    assert shown["text_offset"] == [0, 1, 1, 2]


def test_tokens_as_ids() -> None:
    shown = Logprobs(byte_vocabulary(), as_ids=True)
    assert shown.completion([token(0xF0, 65)])["tokens"] == ["token_id:240"]
    assert shown.completion([token(0xF0, 65)])["top_logprobs"] == [{"token_id:65": -65 / 8, "token_id:240": -30.0}]
    (entry,) = shown.chat([token(0xF0, 65)])
    assert (entry["token"], entry["bytes"], entry["top_logprobs"][0]["token"]) == (
        "token_id:240",
        [0xF0],
        "token_id:65",
    )
