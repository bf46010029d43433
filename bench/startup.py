"""Prints the seconds from starting `quire serve MODEL` to the first 200 of /health.

python -m bench.startup [MODEL] [RUNS]
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

from bench.peers.peer import Command
from bench.peers.process import free_port, serving

__all__ = ["main", "measure"]

GIVE_UP_S = 300.0


def measure(model: str) -> float:
    """Start a server on a free port, wait for /health, stop it; the seconds waited."""
    port = free_port()
    program = Path(sys.executable).with_name("quire")  # not -m: a checkout would shadow the install
    where = Path(model).absolute() if Path(model).exists() else model
    with serving(Command([program, "serve", where, "--port", port]), port, GIVE_UP_S) as server:
        return server.ready_s


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
