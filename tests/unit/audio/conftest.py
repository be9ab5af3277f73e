"""A web server with faults on demand, and short waits between attempts."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from speechssl.audio import remote
from speechssl.audio.remote import RetryPolicy


class FaultyServer:
    """Serves `files` by path with byte ranges; `faults` are served first, one a request.

    A fault is an HTTP status, `"drop"` (the connection is closed half-way through the body) or `"close"` (at once).
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: list[int | str] = []
        self.requests: list[tuple[str, str | None]] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_HEAD(self) -> None:
                self.respond(with_body=False)

            def do_GET(self) -> None:
                owner.requests.append((self.path, self.headers.get("Range")))
                self.respond(with_body=True)

            def respond(self, *, with_body: bool) -> None:
                fault = owner.faults.pop(0) if owner.faults else None
                content = owner.files.get(self.path)
                if fault == "close":
                    self.close_connection = True
                    self.connection.close()
                    return
                if isinstance(fault, int) or content is None:
                    self.send(fault if isinstance(fault, int) else 404, b"")
                    return
                span = self.headers.get("Range")
                if span is not None:
                    first, _, last = span.removeprefix("bytes=").partition("-")
                    if int(first) >= len(content):
                        self.send(416, b"")
                        return
                    content = content[int(first) : int(last) + 1 if last else None]
                self.send(206 if span else 200, content, with_body=with_body, cut=fault == "drop")

            def send(self, status: int, content: bytes, *, with_body: bool = True, cut: bool = False) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Accept-Ranges", "bytes")
                self.end_headers()
                if with_body:
                    self.wfile.write(content[: len(content) // 2] if cut else content)
                if cut:
                    self.close_connection = True

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    monkeypatch.setattr(remote, "RETRY", RetryPolicy(max_attempts=4, first_delay_seconds=0.01, max_delay_seconds=0.02))
    served = FaultyServer()
    yield served
    served.close()
