"""A reverse proxy that serves a gateway under a path prefix, as an ingress does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2

PASSED = ("content-type", "etag", "location", "content-security-policy")


@contextmanager
def prefix_proxy(gateway: str, prefix: str) -> Iterator[str]:
    """Yields its URL, prefix included. Paths without the prefix are 404; bodies are passed whole."""

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.pass_on()

        def do_POST(self) -> None:
            self.pass_on()

        def pass_on(self) -> None:
            if not self.path.startswith(prefix + "/"):
                self.send_error(404)
                return
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
            given = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            answer = httpx2.request(
                self.command, gateway + self.path[len(prefix) :], headers=given, content=body, follow_redirects=False
            )
            self.send_response(answer.status_code)
            for name in PASSED:
                if name in answer.headers:
                    self.send_header(name, answer.headers[name])
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}{prefix}"
    finally:
        server.shutdown()
        server.server_close()
