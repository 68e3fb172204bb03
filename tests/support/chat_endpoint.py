"""An OpenAI-compatible server over a real socket whose assistant messages a function gives, without streams."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[dict[str, Any]], dict[str, Any]]


class ChatEndpoint(ThreadingHTTPServer):
    """A context manager. `answer` takes the body of a request and returns an assistant message.

    Where it raises ValueError the request is a bad one, where RuntimeError the server is not ready.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, answer: Answer) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer = answer
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []

    def __enter__(self) -> ChatEndpoint:
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: ChatEndpoint

    def do_GET(self) -> None:
        self._send(200, {"data": [{"id": "first"}, {"id": "second"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        self.server.keys.append(self.headers.get("Authorization"))
        try:
            self._send(200, {"choices": [{"message": self.server.answer(body)}]})
        except ValueError as error:
            self._send(400, {"error": {"message": str(error)}})
        except RuntimeError as error:
            self._send(503, {"error": {"message": str(error)}})

    def log_message(self, *_: object) -> None:
        return

    def _send(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
