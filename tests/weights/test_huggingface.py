"""Downloads from a Hugging Face hub, against one that runs in this process."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from quire.errors import ModelError
from quire.weights.hub import resolve_model

pytest.importorskip("huggingface_hub")

FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": os.urandom(300_000),
    "tokenizer.json": b"{}",
    "README.md": b"# never downloaded",
    "modeling_evil.py": b"raise SystemExit",
    "pytorch_model.bin": b"never downloaded beside safetensors",
    "consolidated.safetensors": b"never downloaded",
    "onnx/config.json": b"never downloaded",
}
PICKLED = {"config.json": b"{}", "pytorch_model.bin": b"x" * 1000, "training_args.bin": b"no"}
COMMITS = {"main": "a" * 40, "v2": "b" * 40}


class Hub(ThreadingHTTPServer):
    """The endpoints that snapshot_download uses; weights are redirected to another host name."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.storage = f"http://localhost:{self.server_port}"
        self.repositories = {
            "org/model": {"main": dict(FILES), "v2": FILES | {"config.json": b'{"v": 2}'}},
            "org/pickled": {"main": dict(PICKLED)},
        }
        self.log: list[str] = []
        self.tokens: list[str | None] = []
        self.cut_after: int | None = None  # close the connection once after so many bytes


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0].removeprefix("/")
        self.server.log.append(f"{self.command} /{path}")
        self.server.tokens.append(self.headers.get("Authorization"))
        if path.startswith("storage/"):
            return self.send_content(bytes.fromhex(path.split("/")[1]).decode())
        api = path.startswith("api/models/")
        repository = "/".join(path.removeprefix("api/models/").split("/")[:2])
        rest = path.removeprefix("api/models/").split("/")[2:]
        if repository == "org/gated" and "Bearer good" not in str(self.headers["Authorization"]):
            return self.reply(401, X_Error_Code="GatedRepo", X_Error_Message="restricted")
        if repository == "org/gated":
            repository = "org/model"
        if repository == "org/broken":
            return self.reply(503)
        if repository not in self.server.repositories:
            return self.reply(404, X_Error_Code="RepoNotFound", X_Error_Message="not found")
        revisions = self.server.repositories[repository]
        names = {COMMITS[name]: name for name in revisions} | {name: name for name in revisions}
        if rest[1] not in names:
            return self.reply(404, X_Error_Code="RevisionNotFound", X_Error_Message="no revision")
        revision = names[rest[1]]
        if api:
            return self.describe(repository, rest[0], revision)
        return self.locate(repository, revision, "/".join(rest[2:]))

    def describe(self, repository: str, what: str, revision: str) -> None:
        files = self.server.repositories[repository][revision]
        if what == "revision":
            siblings = [{"rfilename": name} for name in files]
            body: Any = {"id": repository, "sha": COMMITS[revision], "siblings": siblings}
        else:
            body = [
                {"type": "file", "path": name, "size": len(content), "oid": digest(content)[:40]}
                for name, content in files.items()
            ]
        self.reply(200, json.dumps(body).encode(), Content_Type="application/json")

    def locate(self, repository: str, revision: str, name: str) -> None:
        content = self.server.repositories[repository][revision].get(name)
        if content is None:
            return self.reply(404, X_Error_Code="EntryNotFound")
        etag, size = f'"{digest(content)}"', str(len(content))
        commit = COMMITS[revision]
        if name.endswith((".safetensors", ".bin")):
            place = (
                f"{self.server.storage}/storage/{f'{repository} {revision} {name}'.encode().hex()}"
            )
            return self.reply(
                302, Location=place, X_Linked_Etag=etag, X_Linked_Size=size, X_Repo_Commit=commit
            )
        self.send_bytes(content, ETag=etag, X_Repo_Commit=commit)

    def send_content(self, place: str) -> None:
        repository, revision, name = place.split(" ")
        content = self.server.repositories[repository][revision][name]
        self.send_bytes(content, ETag=f'"{digest(content)}"')

    def send_bytes(self, content: bytes, **headers: str) -> None:
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        part = content[start:]
        if start:
            headers["Content_Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        cut, self.server.cut_after = self.server.cut_after, None
        if cut is not None and self.command == "GET" and len(part) > cut:
            self.close_connection = True
            return self.reply(206 if start else 200, part[:cut], Content_Length=str(len(part)))
        if self.command == "GET":
            self.server.cut_after = cut if len(part) <= (cut or 0) else None
        else:
            self.server.cut_after = cut
        self.reply(206 if start else 200, part, **headers, Content_Length=str(len(part)))


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants

    server = Hub()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "ENDPOINT", server.url)  # both are made of HF_ENDPOINT
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
    monkeypatch.setenv("HF_TOKEN", "")
    yield server
    server.shutdown()
    server.server_close()


def contents(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


USED = {name: FILES[name] for name in ("config.json", "model.safetensors", "tokenizer.json")}


def test_everything_that_is_used_arrives_and_nothing_else(hub: Hub, tmp_path: Path) -> None:
    directory = resolve_model("org/model", cache_dir=tmp_path)
    assert contents(directory) == USED


def test_a_second_run_downloads_nothing(hub: Hub, tmp_path: Path) -> None:
    first = resolve_model("org/model", cache_dir=tmp_path)
    hub.log.clear()
    assert resolve_model("org/model", cache_dir=tmp_path) == first
    assert [line for line in hub.log if "resolve" in line or "storage" in line] == []


def test_offline_uses_the_cache_and_asks_nobody(hub: Hub, tmp_path: Path) -> None:
    first = resolve_model("org/model", cache_dir=tmp_path)
    hub.log.clear()
    assert resolve_model("org/model", offline=True, cache_dir=tmp_path) == first
    assert hub.log == []


def test_offline_without_a_cache_says_run_once_online(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"org/model: not in the cache.*run once online"):
        resolve_model("org/model", offline=True, cache_dir=tmp_path)
    assert hub.log == []


def test_offline_with_half_a_cache_says_run_once_online(hub: Hub, tmp_path: Path) -> None:
    directory = resolve_model("org/model", cache_dir=tmp_path)
    (directory / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="run once online"):
        resolve_model("org/model", offline=True, cache_dir=tmp_path)


def test_the_cache_serves_while_the_hub_is_away(hub: Hub, tmp_path: Path) -> None:
    first = resolve_model("org/model", cache_dir=tmp_path)
    hub.shutdown()
    hub.server_close()
    assert resolve_model("org/model", cache_dir=tmp_path) == first


def test_a_revision_is_another_snapshot(hub: Hub, tmp_path: Path) -> None:
    main = resolve_model("org/model", cache_dir=tmp_path)
    second = resolve_model("org/model", "v2", cache_dir=tmp_path)
    assert (second / "config.json").read_bytes() == b'{"v": 2}'
    assert second != main
    assert resolve_model("org/model", COMMITS["v2"], cache_dir=tmp_path) == second


def test_an_unknown_revision_is_named(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no revision 'v9'"):
        resolve_model("org/model", "v9", cache_dir=tmp_path)


def test_pickled_weights_arrive_where_there_are_no_safetensors(hub: Hub, tmp_path: Path) -> None:
    directory = resolve_model("org/pickled", cache_dir=tmp_path)
    assert set(contents(directory)) == {"config.json", "pytorch_model.bin"}
    hub.log.clear()
    assert resolve_model("org/pickled", offline=True, cache_dir=tmp_path) == directory
    (directory / "pytorch_model.bin").unlink()
    with pytest.raises(ModelError, match="run once online"):
        resolve_model("org/pickled", offline=True, cache_dir=tmp_path)


def test_a_name_that_is_not_there_says_check_the_spelling(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(
        ModelError,
        match=r"org/absent: no such directory here, and no such model.*spelling.*HF_TOKEN",
    ):
        resolve_model("org/absent", cache_dir=tmp_path)
    with pytest.raises(ModelError, match="no such model"):
        resolve_model("a--b", cache_dir=tmp_path)


def test_a_gated_model_needs_a_token(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"org/gated: gated; accept its terms.*HF_TOKEN"):
        resolve_model("org/gated", cache_dir=tmp_path)
    directory = resolve_model("org/gated", token="good", cache_dir=tmp_path)
    assert contents(directory) == USED


def test_a_broken_hub_is_reported(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match=r"org/broken: .*503"):
        resolve_model("org/broken", cache_dir=tmp_path)


def test_no_network_is_reported_with_what_to_check(hub: Hub, tmp_path: Path) -> None:
    hub.shutdown()
    hub.server_close()
    with pytest.raises(ModelError, match=r"cannot be downloaded from http.*HF_ENDPOINT"):
        resolve_model("org/model", cache_dir=tmp_path)


def test_an_interrupted_download_is_finished_by_the_next_run(hub: Hub, tmp_path: Path) -> None:
    hub.cut_after = 100_000
    try:
        resolve_model("org/model", cache_dir=tmp_path)
    except ModelError as error:
        assert "run again" in str(error) or "try again" in str(error)
    directory = resolve_model("org/model", cache_dir=tmp_path)
    assert contents(directory) == USED
    assert hub.cut_after is None


def test_the_environment_variables_of_the_hub_are_honoured(hub: Hub, tmp_path: Path) -> None:
    code = """
from quire.weights.hub import resolve_model
print(resolve_model("org/gated"))
"""
    environment = os.environ | {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_TOKEN": "good",
        "HF_HUB_DISABLE_XET": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }

    def run(**more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code]
        return subprocess.run(command, env=environment | more, capture_output=True, text=True)

    done = run()
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "home") in done.stdout
    assert "Bearer good" in hub.tokens
    hub.log.clear()
    assert run(HF_HUB_OFFLINE="1").stdout == done.stdout
    assert hub.log == []
    refused = run(HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "empty"))
    assert "run once online" in refused.stderr


def test_a_local_directory_does_not_import_the_hub_library(tmp_path: Path) -> None:
    code = f"""
import sys
from quire.weights.hub import resolve_model
resolve_model({str(tmp_path)!r})
assert not {{"huggingface_hub", "urllib.request"}} & set(sys.modules)
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
