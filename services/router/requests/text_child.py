"""The child process that renders chats and encodes texts: `python -m services.router.requests.text_child MODEL BYTES`.

Nothing can stop a thread that renders a template, or give its memory back. Here each piece of work has its limit of CPU
time, which does not depend on how busy the machine is, and the process has one of memory; one that breaks a limit ends.
A message is two lengths of 4 bytes, JSON, and bytes: marks of a text, or ids.
"""

from __future__ import annotations

import array
import json
import resource
import struct
import sys
import time
from pathlib import Path
from typing import IO, Any

from services.router.requests.assets import ModelAssets
from services.router.requests.errors import InvalidRequest
from services.router.requests.marked_text import MarkedText, marks_of

LENGTHS = struct.Struct("<II")
USED_UP = 96 << 20  # bytes more than at the beginning, at which the child gives way to a fresh one
IDS = "I"  # of array: 4 bytes each


def frame(head: dict[str, Any], data: bytes = b"") -> bytes:
    text = json.dumps(head, ensure_ascii=False).encode()
    return LENGTHS.pack(len(text), len(data)) + text + data


def answer(assets: ModelAssets, asked: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
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


def memory(field: int) -> int:
    """Bytes of address space (0) or of resident memory (1) that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[field]) * resource.getpagesize()


def serve(assets: ModelAssets, requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answers until there are no more requests, or until too much memory was used."""
    most = memory(1) + USED_UP
    while len(lengths := requests.read(LENGTHS.size)) == LENGTHS.size:
        head, data = (requests.read(length) for length in LENGTHS.unpack(lengths))
        asked = json.loads(head)
        limit_s = int(time.process_time() + asked["cpu_s"]) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (limit_s, resource.RLIM_INFINITY))
        try:
            done = answer(assets, asked, data)
        except InvalidRequest as error:
            done = {"error": [error.message, error.param, error.code]}, b""
        resource.setrlimit(resource.RLIMIT_CPU, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        used_up = memory(1) > most
        answers.write(frame({**done[0], "last": used_up}, done[1]))
        answers.flush()
        if used_up:
            return


def main() -> None:
    assets = ModelAssets.load(Path(sys.argv[1]), "")
    most = memory(0) + int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    sys.stdout.buffer.write(frame({}))
    sys.stdout.buffer.flush()
    serve(assets, sys.stdin.buffer, sys.stdout.buffer)


if __name__ == "__main__":
    main()
