"""An OpenAI-compatible server over a real socket whose assistant messages a function gives, without streams."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from support.json_server import JsonHandler, JsonServer

Answer = Callable[[dict[str, Any]], dict[str, Any]]


class ChatEndpoint(JsonServer):
    """A context manager. `answer` takes the body of a request and returns an assistant message.

    Where it raises ValueError the request is a bad one, where RuntimeError the server is not ready.
    """

    def __init__(self, answer: Answer) -> None:
        super().__init__(Handler)
        self.answer = answer
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []


class Handler(JsonHandler):
    server: ChatEndpoint

    def do_GET(self) -> None:
        self.answer(200, {"data": [{"id": "first"}, {"id": "second"}]})

    def do_POST(self) -> None:
        body = self.body()
        self.server.bodies.append(body)
        self.server.keys.append(self.headers.get("Authorization"))
        try:
            self.answer(200, {"choices": [{"message": self.server.answer(body)}]})
        except ValueError as error:
            self.answer(400, {"error": {"message": str(error)}})
        except RuntimeError as error:
            self.answer(503, {"error": {"message": str(error)}})
