"""An OpenAI server that streams canned tokens, for tests of the benchmark client."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["FakeServer", "running_server"]


@dataclass
class FakeServer:
    """How the server behaves, and what it was asked.

    fail_prompts: prompts that are answered with 500.  cut: close the connection in mid-stream.
    """

    delay_s: float = 0.0
    fail_prompts: frozenset[str] = frozenset()
    api_key: str | None = None
    chunked: bool = True
    cut: bool = False
    port: int = 0
    running: int = 0
    most_running: int = 0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    lock: Any = field(default_factory=threading.Lock)

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """Count a request as under way."""
        with self.lock:
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        try:
            yield
        finally:
            with self.lock:
                self.running -= 1


@contextmanager
def running_server(behaviour: FakeServer) -> Iterator[FakeServer]:
    """Serve on a free port, noted in the behaviour, until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(behaviour))
    server.daemon_threads = True
    behaviour.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield behaviour
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(behaviour: FakeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            if not self._allowed():
                return
            found = self.path == "/v1/models"
            self._whole(200 if found else 404, {"data": [{"id": "fake-model"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if not self._allowed():
                return
            behaviour.bodies.append(body)
            with behaviour.one_more():
                prompt = body.get("prompt") or body["messages"][0]["content"]
                if str(prompt) in behaviour.fail_prompts:
                    self._whole(500, {"error": {"message": "on purpose"}})
                else:
                    self._stream(body, prompt)

        def _allowed(self) -> bool:
            wanted = behaviour.api_key
            if wanted is None or self.headers["Authorization"] == f"Bearer {wanted}":
                return True
            self._whole(401, {"error": {"message": "no key"}})
            return False

        def _whole(self, status: int, value: Any) -> None:
            text = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def _stream(self, body: dict[str, Any], prompt: str | list[int]) -> None:
            self.send_response(200)
            if behaviour.chunked:
                self.send_header("Transfer-Encoding", "chunked")
            else:
                self.send_header("Connection", "close")
            self.end_headers()
            chat = self.path.endswith("/chat/completions")
            if chat:
                self._event({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
            for index in range(body["max_tokens"]):
                time.sleep(behaviour.delay_s)
                last = index == body["max_tokens"] - 1
                text: dict[str, Any] = {"delta": {"content": "w "}} if chat else {"text": "w "}
                self._event({"choices": [{**text, "finish_reason": "length" if last else None}]})
                if behaviour.cut:
                    self.close_connection = True
                    return
            count = len(prompt) if isinstance(prompt, list) else len(prompt.split())
            usage = {"prompt_tokens": count, "completion_tokens": body["max_tokens"]}
            self._event({"choices": [], "usage": usage})
            self._send(b"data: [DONE]\n\n")
            if behaviour.chunked:
                self.wfile.write(b"0\r\n\r\n")
            self.close_connection = True

        def _event(self, value: Any) -> None:
            self._send(b"data: " + json.dumps(value).encode() + b"\n\n")

        def _send(self, data: bytes) -> None:
            """One event in two chunks, so that lines and chunks do not coincide."""
            for part in (data[:5], data[5:]):
                framed = f"{len(part):x}\r\n".encode() + part + b"\r\n"
                self.wfile.write(framed if behaviour.chunked else part)

    return Handler
