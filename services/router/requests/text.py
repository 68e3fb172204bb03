"""Turns a sequence's emitted ids into text: whole characters only, stop strings held back. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from services.router.requests.detokenizer import Decoder
from services.router.requests.stops import StopStrings


class TextFold:
    """Feeds ids to a decoder and its text to the stop strings.

    The first `min_tokens` tokens are not checked: a stop string among them does not end the text.
    """

    def __init__(self, decoder: Decoder, stops: StopStrings, *, min_tokens: int = 0, checked: bool = True) -> None:
        self._decoder = decoder
        self._stops = stops
        self._min_tokens = min_tokens
        self._checked = checked  # whether there is any stop string
        self._tokens = 0

    @property
    def hit(self) -> str | None:
        """The stop string that ended the text."""
        return self._stops.hit

    def push(self, ids: Sequence[int]) -> tuple[str, int]:
        """Returns (text that may be shown now, number of ids used); ids after a complete stop string are not used."""
        if not self._checked:
            return self._decoder.push(ids), len(ids)
        text = ""
        for used, token_id in enumerate(ids, 1):
            self._tokens += 1
            delta = self._decoder.push((token_id,))
            text += delta if self._tokens <= self._min_tokens else self._stops.push(delta)
            if self._stops.hit is not None:
                return text, used
        return text, len(ids)

    def finish(self) -> str:
        """Returns the text held back, now that no token will follow."""
        return self._stops.push(self._decoder.finish()) + self._stops.finish()
