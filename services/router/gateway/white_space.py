"""Takes white space off a text that comes in parts. Pure; linear however it is cut."""

from __future__ import annotations


class Trimmer:
    """Passes text on without the white space at its beginning, at its end, or both."""

    def __init__(self, *, start: bool, end: bool) -> None:
        self.at_start = start  # all text so far was dropped, and so is more white space
        self._end = end
        self._waits = False
        self._spaces: list[str] = []  # shown only if something follows

    @property
    def passes_all(self) -> bool:
        """Whether the next text is passed on as it is."""
        return not (self.at_start or self._end or self._waits)

    def wait(self) -> None:
        """From here on white space is shown only if text follows; then everything is."""
        self._waits = True

    def push(self, text: str) -> str:
        """Returns the text that may be shown now."""
        if self.at_start:
            text = text.lstrip()
            self.at_start = not text
        if not text or not (self._end or self._waits):
            return text
        shown = text.rstrip()
        if not shown:
            self._spaces.append(text)
            return ""
        before, self._waits = "".join(self._spaces), False
        if not self._end:
            shown = text
        self._spaces = [text[len(shown) :]]
        return before + shown
