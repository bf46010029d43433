"""Runs chat templates in a process of their own, which is ended when it takes too long.

A template is a program that came with a checkpoint.  Jinja's sandbox bounds what it may touch, but
not what it may use: nested loops, `"x" * 10**9` or comparing nested lists would each stop the
server.  Only another process bounds all of them.  It costs about 20 MB and a tenth of a millisecond
a prompt, and keeps the import of jinja2 out of the server's own start.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quire.errors import ConfigError, EngineError, ModelError, RequestError

__all__ = ["TemplateProcess", "shared_process"]

WORKER = Path(__file__).with_name("template_worker.py")
# The worker must find the same jinja2 as this process, wherever that comes from.
START = (
    "import runpy, sys; file, *sys.path = sys.argv[1:]; runpy.run_path(file, run_name='__main__')"
)
TIME_LIMIT_S = 5.0
START_LIMIT_S = 60.0


@functools.cache
def shared_process() -> TemplateProcess:
    """The process that serves every template of this interpreter; it keeps no state of theirs."""
    return TemplateProcess()


class TemplateProcess:
    """Renders one template at a time; starts when first used and again after it was ended.

    Safe to share between threads.  The process ends with `close`, and with its owner.
    """

    def __init__(self, time_limit_s: float = TIME_LIMIT_S) -> None:
        self._time_limit_s = time_limit_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._finalizer: weakref.finalize[Any, TemplateProcess] | None = None

    def start(self) -> None:
        """Start the process now, so that the first prompt need not wait for it."""
        with self._lock:
            self._running()

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._stop()

    def render(self, source: str, variables: Mapping[str, Any]) -> str:
        """The text that the template makes of JSON-like variables.

        Raises RequestError for what the template refuses and for a limit that is reached, and
        ModelError for a template that does not compile.
        """
        try:
            request = json.dumps({"source": source, "variables": variables}).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise RequestError(f"the messages are not plain JSON: {error}", "messages") from error
        with self._lock:
            answer = self._ask(self._running(), request, self._time_limit_s)
        if answer is None:
            raise RequestError(
                f"the chat template took more than {self._time_limit_s:g} s or too much memory",
                "messages",
            )
        return _text(json.loads(answer))

    def _running(self) -> subprocess.Popen[bytes]:
        """The process, started if it is not there or belongs to a parent that forked."""
        if self._process and self._owner == os.getpid() and self._process.poll() is None:
            return self._process
        self._process = subprocess.Popen(
            [sys.executable, "-c", START, str(WORKER), *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._owner = os.getpid()
        self._finalizer = weakref.finalize(self, _end, self._process, self._owner)
        if self._ask(self._process, b"", START_LIMIT_S) is None:
            raise ConfigError(
                f"the process for chat templates did not start ({sys.executable} {WORKER}): its "
                "error stands above; is jinja2 installed? (pip install jinja2)"
            )
        return self._process

    def _ask(
        self, process: subprocess.Popen[bytes], request: bytes, limit_s: float
    ) -> bytes | None:
        """One line there and one line back; None if the process was ended or died."""
        if process.stdin is None or process.stdout is None:
            raise EngineError("the process for chat templates has no pipes")
        timer = threading.Timer(limit_s, process.kill)
        timer.start()
        try:
            if request:
                process.stdin.write(request + b"\n")
                process.stdin.flush()
            answer = process.stdout.readline()
        except OSError:
            answer = b""
        finally:
            timer.cancel()
        if answer.endswith(b"\n"):
            return answer
        self._stop()
        return None

    def _stop(self) -> None:
        if self._finalizer is not None:
            self._finalizer()
        self._process = None


def _end(process: subprocess.Popen[bytes], owner: int) -> None:
    """Kill the process, unless this is a fork of the one that started it."""
    if os.getpid() != owner:
        return
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    process.wait()


def _text(answer: Mapping[str, str]) -> str:
    if "text" in answer:
        return answer["text"]
    if answer["error"] == "syntax":
        raise ModelError(f"the chat template does not compile: {answer['message']}")
    if answer["error"] == "refused":
        raise RequestError(f"the chat template says: {answer['message']}", "messages")
    raise RequestError(
        f"the chat template fails on these messages: {answer['message']}", "messages"
    )
