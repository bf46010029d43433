"""Runs one engine at a time in its own process group, with a limit on its time."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bench.peers.peer import Command

__all__ = ["EngineFailed", "RunningServer", "free_port", "output_of", "run", "serving"]

POLL_S = 0.005


class EngineFailed(Exception):
    """The process crashed, ran too long or printed what cannot be read; says which."""


@dataclass(frozen=True)
class RunningServer:
    """A server that answers.  ready_s: from exec to the first 200 of /health."""

    pid: int
    port: int
    started: float
    ready_s: float

    def resident_mib(self) -> float:
        """Memory that the process and its children have in RAM now."""
        return sum(map(_resident_bytes, _family(self.pid))) / 2**20


def run(command: Command, limit_s: float) -> dict[str, float]:
    """The command's metrics, and its peak memory as peak_mib.  Raises EngineFailed."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        child = _start(command, out.fileno(), errors.fileno())
        try:
            usage = _wait(child, limit_s)
        finally:
            _stop_group(child)
        printed, said = _text(out), _text(errors)
    if child.returncode:
        raise EngineFailed(f"ended with {child.returncode}: {_last_line(said or printed)}")
    try:
        # Forks of llama.cpp print their table to one or the other.
        return {**command.parse(said + "\n" + printed), "peak_mib": usage / 1024}
    except (ValueError, KeyError, IndexError) as error:
        raise EngineFailed(f"printed no figures ({error}): {_last_line(said)}") from error


@contextmanager
def serving(command: Command, port: int, limit_s: float) -> Iterator[RunningServer]:
    """Start a server, yield when /health says 200, stop it.  Raises EngineFailed."""
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as log:
        child = _start(command, log.fileno(), log.fileno())
        try:
            while not _is_healthy(port):
                if child.poll() is not None:
                    raise EngineFailed(f"ended with {child.returncode}: {_last_line(_text(log))}")
                if time.perf_counter() - started > limit_s:
                    raise EngineFailed(f"is not ready after {limit_s:.0f} s")
                time.sleep(POLL_S)
            ready = time.perf_counter() - started
            yield RunningServer(child.pid, port, started, ready)
        finally:
            _stop_group(child)


def output_of(*arguments: object) -> str:
    """Everything that a short command prints."""
    asked = [str(each) for each in arguments]
    done = subprocess.run(asked, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.stdout


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _start(command: Command, out: int, errors: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [str(each) for each in command.arguments],
        stdin=subprocess.DEVNULL, stdout=out, stderr=errors, start_new_session=True,
        env={**os.environ, **command.environment},
        cwd=tempfile.gettempdir(),  # some engines leave a log where they are started
    )  # fmt: skip


def _wait(child: subprocess.Popen[bytes], limit_s: float) -> int:
    """Wait for the end; the peak of its resident memory in KiB."""
    give_up = time.monotonic() + limit_s
    while time.monotonic() < give_up:
        pid, status, usage = os.wait4(child.pid, os.WNOHANG)
        if pid:
            child.returncode = os.waitstatus_to_exitcode(status)
            return usage.ru_maxrss
        time.sleep(POLL_S)
    raise EngineFailed(f"ran longer than {limit_s:.0f} s")


def _stop_group(child: subprocess.Popen[bytes]) -> None:
    """End what is left of the process group; 5 s of grace."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, sent)
        except ProcessLookupError:
            break
        try:
            child.wait(5)
        except subprocess.TimeoutExpired:
            continue
    child.poll()


def _is_healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _family(pid: int) -> Iterator[int]:
    yield pid
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in tasks.read_text().split():
            yield from _family(int(child))


def _resident_bytes(pid: int) -> int:
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _text(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"
