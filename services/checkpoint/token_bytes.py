"""The bytes that each token id stands for, read off a tokenizer.json whose decoder works token by token. Pure."""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

REPLACEMENT = "\ufffd"
EVERY_BYTE = "caracal-every-byte"  # an error handler of codecs: one replacement character for each undecodable byte

_BYTE_TOKEN = re.compile("<0x([0-9A-Fa-f]{2})>")


def _every_byte(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return REPLACEMENT * (error.end - error.start), error.end


codecs.register_error(EVERY_BYTE, _every_byte)


@dataclass(frozen=True, slots=True)
class ByteRules:
    """How tokens become bytes, and their bytes text.

    `strip`: the string that may be taken off the beginning of a text, and how often. `errors`: what becomes of bytes
    that are not UTF-8, a name that codecs knows.
    """

    byte_level: bool
    replacements: tuple[tuple[str, str], ...] = ()
    strip: tuple[str, int] = ("", 0)
    errors: str = "replace"

    def token_bytes(self, token: str) -> bytes:
        """Returns the bytes of one token: all of a character, or a part of it."""
        if self.byte_level:
            known = all(char in _BYTE_OF for char in token)
            return bytes(_BYTE_OF[char] for char in token) if known else token.encode()
        for old, new in self.replacements:
            token = token.replace(old, new)
        byte = _BYTE_TOKEN.fullmatch(token)
        return bytes.fromhex(byte[1]) if byte else token.encode()


def byte_rules(decoder: Mapping[str, Any] | None) -> ByteRules | None:
    """Returns the rules of the `decoder` of a tokenizer.json; None for one that does not work token by token.

    Known are byte-level BPE and byte fallback, where `<0xE7>` is a byte and any other token text.
    """
    parts = _parts(decoder)
    kinds = [part["type"] for part in parts]
    if kinds and all(kind == "ByteLevel" for kind in kinds):
        return ByteRules(byte_level=True)
    if "ByteFallback" not in kinds:
        return None
    at = kinds.index("ByteFallback")
    after = kinds[at + 1 :]
    plain = all(part["type"] == "Replace" and "String" in part["pattern"] for part in parts[:at])
    if not plain or after not in ([], ["Fuse"], ["Fuse", "Strip"]):
        return None
    strip = parts[-1] if after[-1:] == ["Strip"] else None
    if strip is not None and strip["stop"]:
        return None
    return ByteRules(
        byte_level=False,
        replacements=tuple((part["pattern"]["String"], part["content"]) for part in parts[:at]),
        strip=("", 0) if strip is None else (strip["content"], strip["start"]),
        errors=EVERY_BYTE,
    )


def _parts(decoder: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if not decoder:
        return []
    if decoder["type"] == "Sequence":
        return [part for one in decoder["decoders"] for part in _parts(one)]
    return [decoder]


def _byte_alphabet() -> dict[str, int]:
    """Returns the byte of each printable character that byte-level BPE writes (GPT-2's `bytes_to_unicode`)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    shifted = [byte for byte in range(256) if byte not in set(plain)]
    alphabet = {chr(byte): byte for byte in plain}
    return alphabet | {chr(0x100 + i): byte for i, byte in enumerate(shifted)}


_BYTE_OF = _byte_alphabet()
