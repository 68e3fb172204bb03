"""Tokens that a tokenizer's side files add: each must be in tokenizer.json, the only file that texts are encoded by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from services.router.requests.model_files import AssetError, read_json_if_there
from services.router.requests.template_files import CONFIG, SPECIAL_TOKENS

ADDED = "added_tokens.json"


def check_added_tokens(directory: Path, ids: Mapping[str, int]) -> None:
    """Raises AssetError for a token of the side files that the vocabulary `ids` lacks, or has under another id."""
    for name, text, wanted in _added(directory):
        found = ids.get(text)
        if found is None or wanted not in (None, found):
            has = "which tokenizer.json lacks" if found is None else f"which has the id {found} in tokenizer.json"
            raise AssetError(f"{directory / name}: it adds {ascii(text)[:80]}, {has}")


def _added(directory: Path) -> Iterator[tuple[str, str, int | None]]:
    """Yields (file, token, its id if the file says one)."""
    config = read_json_if_there(directory / CONFIG)
    by_id = config.get("added_tokens_decoder")
    for number, token in by_id.items() if isinstance(by_id, dict) else ():
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str):
            yield CONFIG, text, int(number) if number.isdecimal() else None
    for text, number in read_json_if_there(directory / ADDED).items():
        yield ADDED, text, number if type(number) is int else None
    for file in (CONFIG, SPECIAL_TOKENS):
        given = read_json_if_there(directory / file)
        for field in ("additional_special_tokens", "extra_special_tokens"):
            for text in map(_text, _list(given.get(field))):
                if text is not None:
                    yield file, text, None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(token: Any) -> str | None:
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None
