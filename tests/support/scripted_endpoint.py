"""An OpenAI-compatible server that is not Caracal's: it streams what a test scripts, over a real socket."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from typing import Any

from support.json_server import JsonHandler, JsonServer

Body = dict[str, Any]
Script = Callable[[Body], Iterable[Any]]


def chat(*deltas: dict[str, Any], usage: tuple[int, int] | None = (5, 3)) -> list[Any]:
    """Events of a chat with these deltas, its end and, unless None, its usage (prompt tokens, tokens)."""
    role: dict[str, Any] = {"role": "assistant", "content": ""}
    events: list[Any] = [{"choices": [{"index": 0, "delta": delta}]} for delta in (role, *deltas)]
    events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    counts = {"prompt_tokens": usage[0], "completion_tokens": usage[1]} if usage else {}
    return [*events, *([{"choices": [], "usage": counts}] if usage else []), "[DONE]"]


def completion(*texts: str, usage: tuple[int, int] | None = (5, 3)) -> list[Any]:
    """The same for a completion of these texts."""
    events: list[Any] = [{"choices": [{"index": 0, "text": text}]} for text in texts]
    events.append({"choices": [{"index": 0, "text": "", "finish_reason": "length"}]})
    counts = {"prompt_tokens": usage[0], "completion_tokens": usage[1]} if usage else {}
    return [*events, *([{"choices": [], "usage": counts}] if usage else []), "[DONE]"]


class ScriptedEndpoint(JsonServer):
    """A context manager. `script` gives the events of a request: objects are sent as JSON, texts as they are, an Event
    of threading is waited for, bytes are written raw, and an int is an HTTP status to fail with."""

    def __init__(self, script: Script) -> None:
        super().__init__(Handler)
        self.script = script
        self.bodies: list[Body] = []
        self.headers: list[dict[str, str]] = []
        self.open = 0
        self.most_open = 0
        self.lock = threading.Lock()


class Handler(JsonHandler):
    server: ScriptedEndpoint
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            self.answer(200, {"data": [{"id": "scripted"}]})
        else:
            self.answer(404, {"error": {"message": f"no route {self.path}"}})

    def do_POST(self) -> None:
        body = self.body()
        if not self.path.endswith("completions"):
            self.answer(404, {"error": {"message": f"no route {self.path}"}})
            return
        with self.server.lock:
            self.server.bodies.append(body)
            self.server.headers.append(dict(self.headers))
            self.server.open += 1
            self.server.most_open = max(self.server.most_open, self.server.open)
        try:
            self._stream(list(self.server.script(body)))
        except OSError:  # the client left
            self.close_connection = True
        finally:
            with self.server.lock:
                self.server.open -= 1

    def _stream(self, events: list[Any]) -> None:
        if events and isinstance(events[0], int):
            self.answer(events[0], {"error": {"message": events[1]}})
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        for event in events:
            if isinstance(event, threading.Event):
                event.wait(30)
            elif isinstance(event, bytes):
                self.wfile.write(event)
            else:
                text = event if isinstance(event, str) else json.dumps(event)
                self.wfile.write(f"data: {text}\n\n".encode())
            self.wfile.flush()
