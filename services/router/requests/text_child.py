"""The child process that renders chats and encodes texts: `python -m services.router.requests.text_child MODEL BYTES`.

Beside the text of a chat an answer's bytes are its marks, else ids. A child that has taken much memory gives way to a
fresh one.
"""

from __future__ import annotations

import array
import resource
import sys
from functools import partial
from pathlib import Path
from typing import Any

from services.process.asked_child import LAST, serve
from services.router.requests.assets import ModelAssets
from services.router.requests.errors import InvalidRequest
from services.router.requests.marked_text import MarkedText, marks_of

USED_UP = 96 << 20  # bytes more than at the beginning, at which the child gives way to a fresh one
IDS = "I"  # of array: 4 bytes each


def work(assets: ModelAssets, asked: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    """Does one piece of work. Raises InvalidRequest."""
    kind = asked["do"]
    if kind == "render":
        assert assets.templates is not None
        rendered = assets.templates.named[asked["template"]].render(
            asked["messages"],
            tools=asked["tools"],
            add_generation_prompt=asked["add_generation_prompt"],
            **asked["variables"],
        )
        return {"text": str.__str__(rendered)}, marks_of(rendered)
    if kind == "encode_chat":
        return {}, array.array(IDS, assets.prompts.encode(MarkedText(asked["text"], data))).tobytes()
    if kind == "encode":
        (encoding,) = assets.tokenizer.encode_batch_fast(
            [asked["text"]], add_special_tokens=asked["add_special_tokens"]
        )
        return {}, array.array(IDS, encoding.ids).tobytes()
    ids = array.array(IDS, data).tolist()
    return {"text": assets.tokenizer.decode(ids, skip_special_tokens=False)}, b""


def answer(assets: ModelAssets, most: int, asked: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    """Returns what comes of one piece of work, or its error; the last of a child that has more than `most` bytes."""
    try:
        head, done = work(assets, asked, data)
    except InvalidRequest as error:
        head, done = {"error": [error.message, error.param, error.code]}, b""
    return {**head, LAST: memory(1) > most}, done


def memory(field: int) -> int:
    """Bytes of address space (0) or of resident memory (1) that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[field]) * resource.getpagesize()


def main() -> None:
    assets = ModelAssets.load(Path(sys.argv[1]), "")
    most = memory(0) + int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    serve(partial(answer, assets, memory(1) + USED_UP))


if __name__ == "__main__":
    main()
