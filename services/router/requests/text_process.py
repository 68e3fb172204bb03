"""Renders chats, encodes and decodes texts in child processes, each piece within limits of time and memory.

There are two: short work never waits for long work. Each has a thread of this process that waits for it, and works for
callers in turn.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from services.process.asked_child import AskedChild, ChildEnded
from services.process.fair_threads import FairThreads
from services.router.requests.admission import current_caller
from services.router.requests.errors import InvalidRequest, RouterError
from services.router.requests.marked_text import MarkedText, marks_of
from services.router.requests.template import Message
from services.router.requests.text_child import IDS

log = structlog.get_logger(__name__)

LONG_TEXT = 64 << 10  # characters, or bytes of JSON: more of them are long work
SHORT_S, LONG_S = 2, 15  # of CPU time
SHORT_BYTES, LONG_BYTES = 512 << 20, 1 << 30  # of memory, beside what a child has at its beginning
WALL_S = 120.0  # for an answer of a child that gets no CPU time


class TextChild:
    """One child process, asked on a thread of its own."""

    def __init__(self, directory: Path, name: str, cpu_s: int, memory_bytes: int) -> None:
        self._child = AskedChild(
            "services.router.requests.text_child",
            [str(directory), str(memory_bytes)],
            cpu_s,
            {"TOKENIZERS_PARALLELISM": "false"},
        )
        self._thread = FairThreads(1, name)

    async def ask(self, do: str, data: bytes, asked: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        """Has one thing done. Raises InvalidRequest, ChildEnded and OSError."""
        return await asyncio.wrap_future(self._thread.submit(current_caller(), partial(self._ask, do, data, asked)))

    def start(self) -> None:
        """Begins to start the child, so that the first request need not wait for it."""
        with contextlib.suppress(RuntimeError):  # `close` was called
            self._thread.submit(None, self._child.start)

    def close(self) -> None:
        self._thread.shutdown()
        self._child.close()

    def _ask(self, do: str, data: bytes, asked: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        try:
            head, data = self._child.ask({"do": do, **asked}, data, WALL_S)
        finally:
            if not self._child.running:
                self.start()
        if error := head.get("error"):
            message, param, code = error
            raise InvalidRequest(message, param=param, code=code)
        return head, data


class TextProcesses:
    """The two children of a router. `directory`: the model's."""

    def __init__(self, directory: Path) -> None:
        self._short = TextChild(directory, "short-text", SHORT_S, SHORT_BYTES)
        self._long = TextChild(directory, "long-text", LONG_S, LONG_BYTES)

    def start(self) -> None:
        """Begins to start the child for short work."""
        self._short.start()

    def close(self) -> None:
        for child in (self._short, self._long):
            child.close()

    async def render(
        self,
        template: str,
        messages: Sequence[Message],
        size: int,
        *,
        tools: Sequence[Any],
        add_generation_prompt: bool,
        variables: dict[str, Any],
    ) -> MarkedText:
        """Renders a chat of about `size` characters by the template of that name. Raises InvalidRequest."""
        asked = {
            "template": template,
            "messages": list(messages),
            "tools": list(tools),
            "add_generation_prompt": add_generation_prompt,
            "variables": variables,
        }
        head, marks = await self._do("render", size, "messages", asked)
        return MarkedText(head["text"], marks)

    async def encode_chat(self, text: MarkedText) -> list[int]:
        """Returns the ids of a rendered chat. Raises InvalidRequest."""
        _, ids = await self._do("encode_chat", len(text), "messages", {"text": str.__str__(text)}, marks_of(text))
        return array.array(IDS, ids).tolist()

    async def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Returns the ids of a raw prompt. Raises InvalidRequest."""
        asked = {"text": text, "add_special_tokens": add_special_tokens}
        _, ids = await self._do("encode", len(text), "prompt", asked)
        return array.array(IDS, ids).tolist()

    async def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of ids. Raises InvalidRequest."""
        head, _ = await self._do("decode", len(ids), "tokens", {}, array.array(IDS, ids).tobytes())
        return str(head["text"])

    async def _do(
        self, do: str, size: int, param: str, asked: dict[str, Any], data: bytes = b""
    ) -> tuple[dict[str, Any], bytes]:
        child = self._short if size <= LONG_TEXT else self._long
        try:
            return await child.ask(do, data, asked)
        except ChildEnded:
            log.warning("a text took too long or too much memory", work=do, size=size)
            raise InvalidRequest(
                f"{param}: it takes too long or too much memory to turn into tokens.",
                param=param,
                code="prompt_too_complex",
            ) from None
        except OSError as error:
            log.error("a process for texts cannot be started", error=str(error))
            raise RouterError("The prompt cannot be turned into tokens now.") from None
