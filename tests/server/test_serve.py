"""How a server process listens, logs, and refuses to start."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from quire.config import EngineConfig
from quire.errors import ConfigError
from quire.server.config import ServerConfig
from quire.server.serve import serve
from tests.server.live_server import LiveServer

BODY = {"prompt": "In the beginning", "max_tokens": 3}


def test_unix_socket_for_this_user_only(tmp_path: Path) -> None:
    path = tmp_path / "quire.sock"
    for _ in range(2):  # the second finds what a killed process left behind
        with LiveServer("--uds", str(path)) as server, server.client() as client:
            assert path.stat().st_mode & 0o777 == 0o600
            assert client.post("/v1/completions", json=BODY).status_code == 200
    with LiveServer("--uds", str(path)) as server:
        with pytest.raises(ConfigError, match="in use"):
            serve(EngineConfig(model="/nowhere"), ServerConfig(uds=str(path)))
        with server.client() as client:
            assert client.get("/health").status_code == 200
        server.stop()
        assert server.exit_code() == 0
    assert not path.exists()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_tls(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    subprocess.run([*make, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    options = ("--ssl-keyfile", str(key), "--ssl-certfile", str(certificate))
    with LiveServer(*options) as server, server.client() as client:
        assert server.url.startswith("https://")
        assert client.post("/v1/completions", json=BODY).status_code == 200


def test_logs_have_no_text_of_requests() -> None:
    with LiveServer("--enable-log-requests", "--access-log") as server:
        with server.client() as client:
            client.post("/v1/completions", json=BODY)
        server.stop()
        assert server.exit_code() == 0
    log = "".join(server.log)
    assert "POST /v1/completions" in log
    assert "max_tokens=3" in log
    assert "beginning" not in log


def test_what_cannot_work_is_known_before_loading(tmp_path: Path) -> None:
    engine = EngineConfig(model="/nowhere")
    missing = str(tmp_path / "none.pem")
    with pytest.raises(ConfigError, match=r"none\.pem"):
        serve(engine, ServerConfig(ssl_keyfile=missing, ssl_certfile=missing))
    with pytest.raises(ConfigError, match="--uds"):
        serve(engine, ServerConfig(uds=str(tmp_path / "none" / "socket")))
    with pytest.raises(ConfigError, match="--host"):
        serve(engine, ServerConfig(host="256.1.1.1"))
