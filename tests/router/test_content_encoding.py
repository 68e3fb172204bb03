"""Compressed request bodies: taken as gzip and deflate, within the limit of what they stand for."""

from __future__ import annotations

import gzip
import json
import random
import zlib
from collections.abc import Callable

import pytest
from support.gateway_harness import MODEL, Harness
from support.raw_http import exchange, post

from services.router.gateway.content_encoding import BadCompression, Decoder, encoding_of

COMPLETIONS = "/v1/completions"
GOOD = json.dumps({"model": MODEL, "prompt": "a", "user": "u" * 3000}).encode()
LIMIT = 4 << 20


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


def two_members(data: bytes) -> bytes:
    return gzip.compress(data[:100]) + gzip.compress(data[100:]) + b"\0" * 7


WAYS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("X-Gzip", gzip.compress),
    "members": ("gzip", two_members),
    "zlib": ("deflate", zlib.compress),
    "raw": ("deflate", raw_deflate),
    "identity": ("identity", bytes),
    "identity_and_gzip": ("identity, gzip", gzip.compress),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_compressed_body_is_read(router: Harness, way: str, chunked: bool) -> None:
    name, compress = WAYS[way]
    answer = exchange(router, post(COMPLETIONS, compress(GOOD), extra=f"content-encoding: {name}\r\n", chunked=chunked))
    assert answer.status == 200, answer.body


@pytest.mark.parametrize("way", WAYS)
def test_pieces_of_any_size_give_the_same_body(way: str) -> None:
    name, compress = WAYS[way]
    rng = random.Random(way)
    data = bytes(rng.choices(b"abcd", k=20_000))
    packed = compress(data)
    for _ in range(20):
        decoder, found, at = Decoder(encoding_of(name)), b"", 0
        while at < len(packed):
            size = rng.choice((1, 2, 10, 5000))
            found += decoder.feed(packed[at : at + size], LIMIT)
            at += size
        decoder.finish()
        assert found == data


@pytest.mark.parametrize("way", ["gzip", "zlib", "raw"])
def test_a_bomb_is_rejected_at_the_limit_of_what_it_stands_for(router: Harness, way: str) -> None:
    name, compress = WAYS[way]
    bomb = compress(b" " * (200 << 20))
    assert len(bomb) < 1 << 20
    answer = exchange(router, post(COMPLETIONS, bomb, extra=f"content-encoding: {name}\r\n"))
    assert (answer.status, answer.error["code"]) == (413, "request_too_large")
    assert len(Decoder(encoding_of(name)).feed(bomb, 1000)) == 1001, "no more than asked for is ever made"


def test_empty_members_without_end_are_rejected() -> None:
    decoder = Decoder("gzip")
    with pytest.raises(BadCompression, match="after its compressed data"):
        decoder.feed(gzip.compress(b"") * 1000, LIMIT)


BAD: dict[str, tuple[str, bytes, str]] = {
    "not_gzip": ("gzip", GOOD, "not valid gzip"),
    "not_deflate": ("deflate", GOOD, "not valid deflate"),
    "cut": ("gzip", gzip.compress(GOOD)[:-9], "ends too early"),
    "empty": ("gzip", b"", "ends too early"),
    "wrong_sum": ("gzip", gzip.compress(GOOD)[:-8] + b"\1" * 8, "not valid gzip"),
    "rest": ("deflate", zlib.compress(GOOD) + b"more", "bytes after"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_compressed_as_it_says_is_400(router: Harness, name: str) -> None:
    encoding, data, why = BAD[name]
    answer = exchange(router, post(COMPLETIONS, data, extra=f"content-encoding: {encoding}\r\n"))
    assert (answer.status, answer.error["code"]) == (400, "invalid_encoding")
    assert why in answer.error["message"]


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "gzip, br", "\xe9"])
def test_other_encodings_are_415_and_the_answer_names_those_that_are_taken(router: Harness, encoding: str) -> None:
    data = post(COMPLETIONS, GOOD, extra="content-encoding: %s\r\n")
    answer = exchange(router, data.replace(b"%s", encoding.encode("latin-1")))
    assert (answer.status, answer.error["code"]) == (415, "unsupported_media_type")
    assert answer.headers["accept-encoding"] == "gzip, deflate, identity"
