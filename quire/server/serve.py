"""Loads a model, listens, and stops in good order."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import math
import os
import socket
import ssl
import stat
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import FrameType

import uvicorn

import quire
from quire.async_engine import AsyncEngine
from quire.config import EngineConfig
from quire.errors import ConfigError
from quire.server.app import build_app
from quire.server.config import ServerConfig, environment_api_keys
from quire.server.state import ServerState

__all__ = ["serve"]

GRACE_S = 5.0  # for aborted requests to be answered after the shutdown timeout


def serve(engine_config: EngineConfig, config: ServerConfig) -> int:
    """Serve one model until a signal; return the exit status.

    The address is taken first, so that a busy port is known before the model is loaded; nothing is
    accepted until the model is ready.  The first SIGTERM or SIGINT refuses new requests and lets
    running ones finish; the second ends the process at once.
    Raises ConfigError for an address that cannot be taken, and whatever loading raises.
    """
    config = replace(config, api_key=(*config.api_key, *environment_api_keys()))
    _set_up_logging(config)
    _check_tls(config)
    listener = _bind(config)
    try:
        engine = AsyncEngine.from_config(engine_config)
        app = build_app(engine, config)
        gc.collect()
        gc.freeze()  # what a loaded model consists of lives as long as the process
        for line in engine.info.lines:
            _say(line)
        names = ", ".join(app.state.server.model_names)
        _say(f"Quire {quire.__version__} serves {names} at {_address(listener, config)}")
        _Server(_uvicorn_config(app, config), app.state.server).run(sockets=[listener])
    finally:
        listener.close()
        if config.uds:
            Path(config.uds).unlink(missing_ok=True)
    return 0


class _Server(uvicorn.Server):
    """uvicorn's server, which also tells the application that it is stopping."""

    def __init__(self, config: uvicorn.Config, state: ServerState) -> None:
        super().__init__(config)
        self._state = state

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains, the second ends the process."""
        if self.should_exit:
            os._exit(128 + sig)
        self._state.stopping = True
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let requests finish; abort those that take too long, which answers their clients.

        The address is given up only then; before, new requests are told to go elsewhere.
        """
        patience_s = self._state.config.shutdown_timeout
        last_resort = threading.Timer(patience_s + 3 * GRACE_S, os._exit, [1])  # a stuck engine
        last_resort.daemon = True
        last_resort.start()
        deadline = time.monotonic() + patience_s
        while self._state.generations and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        self._state.stop_generations()
        await super().shutdown(sockets)


def _uvicorn_config(app: object, config: ServerConfig) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=config.access_log,
        server_header=False,
        proxy_headers=False,
        root_path=config.root_path,
        ssl_keyfile=config.ssl_keyfile,
        ssl_certfile=config.ssl_certfile,
        timeout_graceful_shutdown=math.ceil(GRACE_S),
    )


def _set_up_logging(config: ServerConfig) -> None:
    """Log to stderr unless the program that called us logs elsewhere already."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("quire").setLevel(logging.INFO)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    if config.access_log:
        logging.getLogger("uvicorn.access").setLevel(logging.INFO)


def _check_tls(config: ServerConfig) -> None:
    """Find a bad key or certificate before the model is loaded."""
    if config.ssl_certfile is None:
        return
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(config.ssl_certfile, config.ssl_keyfile)
    except OSError as error:  # ssl.SSLError is one
        names = f"{config.ssl_certfile} and {config.ssl_keyfile}"
        raise ConfigError(f"TLS files {names} cannot be used: {error}") from error


def _bind(config: ServerConfig) -> socket.socket:
    """A socket with the address, not yet listening."""
    where = config.uds or f"{config.host}:{config.port}"
    try:
        return _bind_unix(config.uds) if config.uds else _bind_internet(config.host, config.port)
    except OSError as error:
        option = "--uds" if config.uds else "--host or --port"
        raise ConfigError(f"cannot listen on {where}: {error}; choose another {option}") from error


def _bind_internet(host: str, port: int) -> socket.socket:
    [(family, kind, protocol, _, address), *_] = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(address)
    return listener


def _bind_unix(path: str) -> socket.socket:
    """A Unix socket that only this user may connect to; one that nobody listens to is replaced."""
    if Path(path).exists() and stat.S_ISSOCK(Path(path).stat().st_mode):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            status = probe.connect_ex(path)
        if status != errno.ECONNREFUSED:
            code = status or errno.EADDRINUSE
            raise OSError(code, os.strerror(code))
        Path(path).unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    earlier = os.umask(0o177)
    try:
        listener.bind(path)
    finally:
        os.umask(earlier)
    return listener


def _address(listener: socket.socket, config: ServerConfig) -> str:
    if config.uds:
        return f"unix:{config.uds}"
    host, port = listener.getsockname()[:2]
    scheme = "https" if config.ssl_certfile else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
