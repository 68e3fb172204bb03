"""Turns a sequence's emitted ids into text: whole characters only, stop strings held back, tags marked. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from services.router.requests.detokenizer import Decoder
from services.router.requests.stops import StopStrings


class Tag(NamedTuple):
    """A tag in a text that came as a token of its own. `start`: where it is in the text."""

    start: int
    text: str


@dataclass(slots=True)  # frozen ones take twice as long to make, and there is one for each token
class TaggedText:
    """Text with its tags, in order. Text that only reads like a tag is not among them."""

    text: str = ""
    tags: tuple[Tag, ...] = ()

    def __add__(self, other: TaggedText) -> TaggedText:
        moved = tuple(Tag(tag.start + len(self.text), tag.text) for tag in other.tags)
        return TaggedText(self.text + other.text, self.tags + moved)


class TextFold:
    """Feeds ids to a decoder and its text to the stop strings.

    The first `min_tokens` tokens are not checked: a stop string among them does not end the text. `tags`: the ids to
    mark, with their texts.
    """

    def __init__(
        self,
        decoder: Decoder,
        stops: StopStrings,
        *,
        min_tokens: int = 0,
        checked: bool = True,
        tags: Mapping[int, str] | None = None,
    ) -> None:
        self._decoder = decoder
        self._stops = stops
        self._min_tokens = min_tokens
        self._checked = checked  # whether there is any stop string
        self._tag_texts = tags or {}
        self._tokens = 0
        self._decoded = 0  # characters that the decoder returned
        self._shown = 0  # characters that were returned; the others are held back
        self._tags: deque[Tag] = deque()  # not returned yet; they start at a character of the whole text
        self._held = ""  # the beginning of a tag whose end the stop strings hold back

    @property
    def hit(self) -> str | None:
        """The stop string that ended the text."""
        return self._stops.hit

    def push(self, ids: Sequence[int]) -> tuple[TaggedText, int]:
        """Returns (text that may be shown now, number of ids used); ids after a complete stop string are not used."""
        if not self._checked and self._tag_texts.keys().isdisjoint(ids):
            text = self._decoder.push(ids)
            self._decoded += len(text)
            return self._show(text), len(ids)
        text = ""
        for used, token_id in enumerate(ids, 1):
            self._tokens += 1
            delta = self._decoder.push((token_id,))
            self._decoded += len(delta)
            tag = self._tag_texts.get(token_id)
            if tag is not None and delta.endswith(tag):
                self._tags.append(Tag(self._decoded - len(tag), tag))
            text += delta if self._tokens <= self._min_tokens else self._stops.push(delta)
            if self._stops.hit is not None:
                return self._show(text), used
        return self._show(text), len(ids)

    def finish(self) -> TaggedText:
        """Returns the text held back, now that no token will follow."""
        return self._show(self._stops.push(self._decoder.finish()) + self._stops.finish())

    def _show(self, text: str) -> TaggedText:
        """Adds the tags to the next text to be shown. A tag that a stop string cut is text."""
        if not self._tags:
            self._shown += len(text)
            return TaggedText(text)
        text, self._held = self._held + text, ""
        tags: list[Tag] = []
        while self._tags and self._tags[0].start + len(self._tags[0].text) <= self._shown + len(text):
            tag = self._tags.popleft()
            tags.append(Tag(tag.start - self._shown, tag.text))
        if self._tags and self.hit is None:
            begun = max(0, self._tags[0].start - self._shown)
            text, self._held = text[:begun], text[begun:]
        self._shown += len(text)
        return TaggedText(text, tuple(tags))
