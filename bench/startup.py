"""Prints the seconds from starting `quire serve MODEL` to the first 200 of /health.

python bench/startup.py [MODEL] [RUNS]
"""

from __future__ import annotations

import http.client
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

__all__ = ["free_port", "main", "measure"]

GIVE_UP_S = 300.0


def measure(model: str) -> float:
    """Start a server on a free port, wait for /health, stop it; the seconds waited."""
    port = free_port()
    program = Path(sys.executable).with_name("quire")  # not -m: a checkout would shadow the install
    command = [str(program), "serve", model, "--port", str(port)]
    started = time.perf_counter()
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        while not _is_healthy(port):
            if server.poll() is not None or time.perf_counter() - started > GIVE_UP_S:
                raise SystemExit(f"the server did not start; run: {' '.join(command)}")
            time.sleep(0.002)
        return time.perf_counter() - started
    finally:
        server.terminate()
        server.wait()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _is_healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def main() -> None:
    """Measure several starts and print their median."""
    model = sys.argv[1] if len(sys.argv) > 1 else "demo"
    runs = int(sys.argv[2]) if len(sys.argv) > 2 else 7
    seconds = [measure(model) for _ in range(runs)]
    print(
        f"{model}: median {statistics.median(seconds):.2f} s of {runs}, best {min(seconds):.2f} s"
    )


if __name__ == "__main__":
    main()
