"""Errors about a chat request that was made from another API's, in the words of that API."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from services.router.requests.errors import InvalidRequest

MESSAGE = re.compile(r"messages\[(\d+)\]")


class FieldNames:
    """What the caller calls the fields of a chat request.

    `fields`: the caller's name by the chat request's; `tools[].function.parameters` stands for any tool's.
    `messages`: for each message of the chat the place that it came from.
    """

    def __init__(self, fields: Mapping[str, str], messages: Sequence[str] = ()) -> None:
        self._fields = fields
        self._messages = messages

    @contextmanager
    def of_the_caller(self) -> Iterator[None]:
        """Renames the fields of an InvalidRequest that is raised within."""
        try:
            yield
        except InvalidRequest as error:
            if error.param is not None:
                before, error.param = error.param, self._renamed(error.param)
                error.message = self._in_words(error.message, before, error.param)
                error.args = (error.message,)
            raise

    def _renamed(self, param: str) -> str:
        if found := MESSAGE.match(param):
            number = int(found[1])
            return self._messages[number] if number < len(self._messages) else self._fields.get("messages", param)
        for name in sorted(self._fields, key=len, reverse=True):
            pattern = re.escape(name).replace(r"\[\]", r"(\[\d+\])")
            if found := re.match(rf"{pattern}(?![A-Za-z0-9_])", param):
                number_text = found[1] if found.re.groups else ""
                return self._fields[name].replace("[]", number_text) + param[found.end() :]
        return param

    def _in_words(self, message: str, before: str, after: str) -> str:
        words = {name: other for name, other in self._fields.items() if "_" in name} | {before: after}
        names = "|".join(re.escape(name) for name in sorted(words, key=len, reverse=True))
        return re.sub(rf"(?<![A-Za-z0-9_.])(?:{names})(?![A-Za-z0-9_])", lambda found: words[found[0]], message)
