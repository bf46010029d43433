"""A real server process with the demo model, on a port of its own."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from types import TracebackType

import httpx

__all__ = ["LiveServer"]

START = "import sys; from quire.cli.main import main; sys.exit(main(sys.argv[1:]))"


class LiveServer:
    """Runs `quire serve demo` while used as a context.

    ready_s: seconds from exec to the first 200 of /health.
    """

    def __init__(self, *options: str, model: str = "demo") -> None:
        self.url = ""
        self.ready_s = 0.0
        self.log: list[str] = []
        self._command = [sys.executable, "-c", START, "serve", model, "--port", "0", *options]

    def __enter__(self) -> LiveServer:
        started = time.monotonic()
        self.process = subprocess.Popen(self._command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            found = re.search(r" at (https?://\S+|unix:\S+)", line)
            if found:
                self.url = found[1]
                break
        assert self.url, "".join(self.log)
        self._wait_until_healthy()
        self.ready_s = time.monotonic() - started
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        assert self.process.stderr is not None
        self.log += self.process.stderr.readlines()
        self.process.stderr.close()
        self.process.wait()

    def client(self) -> httpx.Client:
        """A client of this server, whatever it listens on."""
        socket_path = self.url.removeprefix("unix:")
        if socket_path != self.url:
            transport = httpx.HTTPTransport(uds=socket_path)
            return httpx.Client(transport=transport, base_url="http://quire")
        return httpx.Client(base_url=self.url, verify=False, timeout=30)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def exit_code(self, within_s: float = 20.0) -> int:
        """Wait for the process to end."""
        return self.process.wait(within_s)

    def _wait_until_healthy(self) -> None:
        while True:
            try:
                with self.client() as client:
                    if client.get("/health").status_code == 200:
                        return
            except httpx.TransportError:
                assert self.process.poll() is None, "the server ended"
                time.sleep(0.002)
