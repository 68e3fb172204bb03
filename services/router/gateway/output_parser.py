"""Parses LongCat's output into OpenAI's parts, as it streams: content, reasoning, tool calls.

Never shows part of a tag. Time is linear in the text: no backtracking regular expression is run on model output.

Reasoning is taken out first, as in vLLM and in the model's own server: a call in it is a thought about a call. Content
is what is left without the calls, as it was written, but for white space at the beginning after reasoning, and white
space after a call that no text follows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from services.router.gateway.output_tags import (
    END_THINK,
    END_TOOL,
    REASONING_TAGS,
    TAG_BEGINS,
    THINK,
    TOOL,
    TOOL_TAGS,
    Piece,
    TagReader,
)
from services.router.gateway.quoted_tags import Ambiguity
from services.router.gateway.tool_calls import CallStream, ToolDelta
from services.router.gateway.white_space import Trimmer
from services.router.requests.text import Tag


@dataclass(slots=True)  # frozen ones take twice as long to make, and there is one for each token
class Delta:
    """A part of the answer: content, reasoning, or a step of a tool call."""

    kind: Literal["content", "reasoning", "tool"]
    text: str = ""
    tool: ToolDelta | None = None


class OutputParser:
    """Parses one choice.

    `tools`: the JSON schemas of the arguments by tool name; None = tool calls stay content. `reasoning`: the prompt
    has opened a block. `tokens`: texts that the tokenizer has as tokens.
    """

    def __init__(
        self,
        tools: Mapping[str, Mapping[str, Any]] | None,
        *,
        reasoning: bool = False,
        tokens: Collection[str] = (),
    ) -> None:
        self._tools = tools
        self._tags = REASONING_TAGS if tools is None else (*REASONING_TAGS, *TOOL_TAGS)
        self._reader = TagReader([tag for tag in self._tags if tag not in tokens])
        self._spaces = Trimmer(start=reasoning, end=reasoning)
        self._call: CallStream | None = None
        self._ambiguity: Ambiguity | None = None
        self._strict = False  # a tag ends a call wherever it stands
        self.reasoning = reasoning  # whether a reasoning block is open at the end of the text so far
        self.calls = 0

    def push(self, text: str, tags: Sequence[Tag] = ()) -> list[Delta]:
        """Returns the parts that the text adds, as far as they are certain. `tags`: those that came as tokens."""
        if self._is_plain_content(text, tags):
            return [Delta("content", text)]
        if self._tools is None:
            tags = [tag for tag in tags if tag.text in self._tags]
        return [delta for piece in self._reader.push(text, tags) for delta in self._piece(piece)]

    def finish(self, *, cut: bool = False, stopped: bool = False) -> list[Delta]:
        """Returns what was held back; an unfinished tool call as far as it can be read, or else as content.

        `cut`: the answer ended at a limit, not where the model ended it; `stopped`: at a stop string. Then a call that
        has only begun is nobody's text, and is not shown, nor is a tag that the limit cut.
        """
        held = self._reader.finish()
        unnamed = self._call is not None and not self._call.named
        if held and ((unnamed and (cut or stopped)) or (cut and held[0].text.startswith(TAG_BEGINS))):
            held = []
        deltas = [delta for piece in held for delta in self._piece(piece)]
        if self._ambiguity is not None:
            deltas += self._quoted(self._ambiguity.pieces) if cut else self._resolve(quoted=False)
        return deltas if self._call is None else deltas + self._close_call(cut=cut, begun=cut or stopped)

    def _is_plain_content(self, text: str, tags: Sequence[Tag]) -> bool:
        """Whether the text can be passed on as it is: true for most texts, so worth a shortcut."""
        plain = self._call is None and not self.reasoning and self._spaces.passes_all and not self._reader.held
        return plain and not tags and "<" not in text and text != ""

    def _piece(self, piece: Piece) -> list[Delta]:
        if self._call is not None:
            return self._in_call(piece)
        if piece.is_tag and self._enter(piece.text):
            return []
        return self._text(piece.text)

    def _enter(self, tag: str) -> bool:
        """Returns whether a tag outside of calls has a meaning there; any other is text."""
        if self.reasoning:
            if tag == END_THINK:
                self.reasoning, self._spaces = False, Trimmer(start=True, end=False)
            return tag == END_THINK or (tag == THINK and self._spaces.at_start)
        if tag == THINK:
            self.reasoning, self._spaces = True, Trimmer(start=True, end=True)
        elif tag == TOOL:
            self._call = CallStream(self.calls, self._tools or {})
        return tag in (THINK, TOOL)

    def _in_call(self, piece: Piece) -> list[Delta]:
        call = self._call
        assert call is not None
        if self._ambiguity is None and piece.is_tag and not self._strict:
            self._ambiguity = call.ambiguity(piece.text)
        if self._ambiguity is not None:
            quoted = self._ambiguity.push(piece)
            return [] if quoted is None else self._resolve(quoted=quoted)
        if piece == Piece(END_TOOL, is_tag=True):
            return self._close_call(END_TOOL)
        if piece == Piece(TOOL, is_tag=True):
            deltas = [] if call.blank else self._close_call()
            self._call = CallStream(self.calls, self._tools or {})
            return deltas
        steps = call.push(piece)
        return self._give_up_call() if call.hopeless else [Delta("tool", tool=step) for step in steps]

    def _resolve(self, *, quoted: bool) -> list[Delta]:
        """Reads on from a tag within an argument, as text or as the end of the call.

        Having been wrong once, the second reading takes every tag as one: each piece is read twice at most.
        """
        ambiguity, self._ambiguity = self._ambiguity, None
        assert ambiguity is not None
        if not quoted:
            self._strict = True
            deltas = [delta for piece in ambiguity.pieces for delta in self._piece(piece)]
            self._strict = False
            return deltas
        *inside, last = ambiguity.pieces
        return [*self._quoted(inside), *self._in_call(last)]

    def _quoted(self, pieces: Sequence[Piece]) -> list[Delta]:
        assert self._call is not None
        text = "".join(piece.text for piece in pieces)
        return [Delta("tool", tool=step) for step in self._call.push(Piece(text))]

    def _close_call(self, end: str = "", *, cut: bool = False, begun: bool = False) -> list[Delta]:
        """Ends the open call. `begun`: one without a name has only begun, and is dropped."""
        call = self._call
        assert call is not None
        steps = call.finish(cut=cut)
        if not call.named:
            if not begun:
                return self._give_up_call(end)
            self._call = None
            return []
        self._call = None
        self.calls += 1
        self._spaces.wait()
        return [Delta("tool", tool=step) for step in steps]

    def _give_up_call(self, end: str = "") -> list[Delta]:
        """Returns what cannot be read as a call, as content."""
        call, self._call = self._call, None
        assert call is not None
        return self._text(TOOL + call.body + end)

    def _text(self, text: str) -> list[Delta]:
        shown = self._spaces.push(text)
        return [Delta("reasoning" if self.reasoning else "content", shown)] if shown else []
